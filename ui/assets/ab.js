// Runs once per component. `element`, `props` and `watch` come from Gradio.
// Three sounds are decoded into buffers and started at one moment of one audio clock; what plays is a matter of their gains.
const one = (selector) => element.querySelector(selector);
const made = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const UNDEFINED = 255, RAMP = 0.008; // seconds a switch takes, so that it does not click
const root = one('.ab');

let shown = null; // the value that is drawn
let buffers = []; // one AudioBuffer per track
let loading = null;
let context = null, mix = null, voices = []; // {source, gain} of each track while it plays
let current = 2, offset = 0, startedAt = 0, playing = false;

// ---- the clock

const length = () => shown?.duration ?? 0;
function position() {
  if (!playing) return offset;
  const passed = Math.max(0, context.currentTime - startedAt) + offset;
  return one('.loop').checked && length() ? passed % length() : Math.min(passed, length());
}

async function loaded() {
  const mine = shown;
  const decoder = new OfflineAudioContext(1, 1, mine.sample_rate);
  const found = await Promise.all(mine.tracks.map(async (track) => {
    const answer = await fetch(track.file.url);
    if (!answer.ok) throw new Error(`the sound could not be fetched (${answer.status})`);
    return decoder.decodeAudioData(await answer.arrayBuffer());
  }));
  if (mine === shown) buffers = found;
}

function opened() {
  if (context?.sampleRate === shown.sample_rate) return;
  context?.close();
  context = new AudioContext({ sampleRate: shown.sample_rate, latencyHint: 'interactive' });
  mix = context.createGain();
  mix.connect(context.destination);
}

async function play() {
  if (!shown || playing) return;
  try { await loading; } catch (error) { one('.said').textContent = `It cannot be played: ${error.message}.`; return; }
  document.querySelectorAll('audio').forEach((other) => other.pause());
  opened();
  await context.resume();
  if (playing) return;
  if (offset >= length() - 0.02) offset = 0;
  startedAt = context.currentTime + 0.03;
  voices = buffers.map((buffer, i) => {
    const source = context.createBufferSource(), gain = context.createGain();
    source.buffer = buffer;
    source.loop = one('.loop').checked;
    gain.gain.value = wanted(i);
    source.connect(gain).connect(mix);
    source.start(startedAt, offset);
    return { source, gain };
  });
  playing = true;
  voices[0].source.addEventListener('ended', ended);
  requestAnimationFrame(tick);
}

function ended(event) {
  if (playing && event.target === voices[0]?.source) { stop(); offset = length(); show(); }
}

function stop() {
  if (!playing) return;
  offset = position();
  playing = false;
  for (const { source, gain } of voices) { source.stop(); source.disconnect(); gain.disconnect(); }
  voices = [];
  show();
}

const toggle = () => (playing ? stop() : play());

function seek(time) {
  const going = playing;
  stop();
  offset = clamp(time, 0, length());
  if (going) play();
  show();
}

function tick() {
  show();
  if (playing) requestAnimationFrame(tick);
}

// ---- which one is heard, and how loud

function scale(i) {
  if (!one('.equal').checked) return 1;
  const levels = shown.tracks.map((track) => track.level_db).filter((level) => level > -99);
  return shown.tracks[i].level_db > -99 ? 10 ** ((Math.min(...levels) - shown.tracks[i].level_db) / 20) : 1;
}

const wanted = (i) => (i === current ? scale(i) : 0);

function balance() {
  voices.forEach(({ gain }, i) => {
    const now = context.currentTime;
    gain.gain.cancelScheduledValues(now);
    gain.gain.setValueAtTime(gain.gain.value, now);
    gain.gain.linearRampToValueAtTime(wanted(i), now + RAMP);
  });
  say();
}

function choose(index) {
  if (!shown || index < 0 || index >= shown.tracks.length) return;
  current = index;
  element.querySelectorAll('.choice').forEach((button, i) => {
    button.setAttribute('aria-checked', i === index);
    button.tabIndex = i === index ? 0 : -1;
  });
  balance();
}

const signed = (value, digits = 1) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;

function say() {
  if (!shown) return;
  const changes = shown.tracks.map((track, i) => [track.title.toLowerCase(), 20 * Math.log10(scale(i))]).filter(([, db]) => db < -0.05);
  one('.said').textContent = !one('.equal').checked ? 'Each at its own loudness.'
    : changes.length ? `Played equally loud by measured RMS: ${changes.map(([title, db]) => `${title} ${signed(db)} dB`).join(', ')}.`
      : 'Played equally loud by measured RMS: they already are.';
}

// ---- drawing

function paint(canvas, { rows, columns, data }) {
  const map = bytes(props.colours[document.body.classList.contains('dark') ? 'dark' : 'light']), level = bytes(data);
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  level.forEach((value, i) => image.data.set([map[3 * value], map[3 * value + 1], map[3 * value + 2], 255], 4 * i));
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function pitchLine(data) {
  const curve = bytes(data), svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${curve.length} 254`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  let path = '', drawing = false;
  curve.forEach((value, i) => {
    if (value !== UNDEFINED) path += `${drawing ? 'L' : 'M'}${i + 0.5} ${254 - value}`;
    drawing = value !== UNDEFINED;
  });
  for (const name of ['under', 'over']) {
    const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    line.setAttribute('class', name);
    line.setAttribute('d', path);
    svg.append(line);
  }
  return svg;
}

function editBar() {
  const share = bytes(shown.edit), canvas = made('canvas', { class: 'edit', 'aria-hidden': 'true' });
  canvas.width = share.length;
  canvas.height = 1;
  const probe = canvas.getContext('2d'), image = new ImageData(share.length, 1);
  probe.fillStyle = getComputedStyle(root).getPropertyValue('--color-accent') || '#6366f1';
  probe.fillRect(0, 0, 1, 1);
  const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
  share.forEach((value, i) => image.data.set([red, green, blue, value], 4 * i));
  probe.putImageData(image, 0, 0);
  return canvas;
}

function axis(width) {
  const box = made('div', { class: 'axis', 'aria-hidden': 'true' });
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((seconds) => seconds * width / length() > 46) || 30;
  for (let time = 0; time < length() - 0.3 * step; time += step) {
    box.append(made('span', { style: `left:${100 * time / length()}%` }, `${+time.toFixed(1)} s`));
  }
  return box;
}

function gutter() {
  const box = made('div', { class: 'gutter', 'aria-hidden': 'true' });
  let last = -1;
  for (const [place, label] of shown.ticks) {
    if (place < last + 0.09 || place > 0.97) continue;
    box.append(made('span', { style: `bottom:${100 * place}%` }, label));
    last = place;
  }
  return box;
}

function panel(track, i) {
  const button = made('button', { type: 'button', role: 'radio', class: 'choice', 'aria-checked': i === current, tabindex: i === current ? 0 : -1 },
    made('kbd', { 'aria-hidden': 'true' }, String(i + 1)), made('b', {}, track.title),
    made('span', { class: 'level' }, track.level_db > -99 ? `${track.level_db.toFixed(1).replace('-', '−')} dBFS` : 'silent'));
  const canvas = made('canvas', { role: 'img', 'aria-label': `Spectrogram: ${track.title}` });
  paint(canvas, track.picture);
  const picture = made('div', { class: 'picture' }, canvas, pitchLine(track.f0), made('div', { class: 'cursor', 'aria-hidden': 'true' }));
  if (i === 2) picture.append(editBar());
  return made('figure', {}, button, picture);
}

const NAMES = { pitch: 'Pitch', loudness: 'Loudness', brightness: 'Brightness' };
const HEADS = ['Original', 'Reconstruction', 'Steered', 'Asked', 'Got', 'Off by'];
const ABOUT = 'Medians over the audible frames of the edited part, without its fades. Changes are against the reconstruction, so that the codec’s own error does not count.';

function measuredRow({ property, asked, said }) {
  const kept = asked === 0;
  const line = made('tr', {}, made('th', { scope: 'row' }, NAMES[property]));
  said.forEach((text, i) => line.append(made('td', { 'data-label': HEADS[i], class: i === 4 ? 'got' : i === 3 ? 'aim' : kept && i === 5 ? 'kept' : '' }, text)));
  if (kept && /[1-9]/.test(said[5])) line.lastChild.append(made('span', { class: 'tag' }, 'off target'));
  return line;
}

function drawMeasured() {
  one('.measured').hidden = !shown?.measured;
  if (!shown?.measured) return;
  one('tbody').replaceChildren(...shown.measured.map(measuredRow));
  one('.notes').textContent = [...shown.notes, ABOUT].join(' ');
}

function draw() {
  if (shown && shown.id === props.value?.id) return; // the same result once more: it goes on playing
  stop();
  shown = props.value || null;
  one('.empty').hidden = Boolean(shown);
  element.querySelectorAll('.bar, .said, .panels, .keys').forEach((part) => { part.hidden = !shown; });
  one('.panels').replaceChildren();
  buffers = [];
  drawMeasured();
  if (!shown) return;
  const narrow = window.matchMedia('(max-width: 760px)').matches;
  shown.tracks.forEach((track, i) => {
    if (i === 0 || narrow) one('.panels').append(gutter());
    one('.panels').append(panel(track, i));
  });
  element.querySelectorAll('figure').forEach((figure) => figure.append(axis(figure.clientWidth || 300)));
  offset = clamp(offset, 0, length());
  one('.length').textContent = `${length().toFixed(2)} s`;
  one('.seek').max = length();
  if (shown.equal) one('.equal').checked = true;
  loading = loaded();
  loading.catch(() => {});
  say();
  show();
}

function show() {
  if (!shown) return;
  const time = position();
  element.querySelectorAll('.cursor').forEach((line) => { line.style.left = `${100 * time / length()}%`; });
  one('.now').textContent = time.toFixed(2);
  if (document.activeElement !== one('.seek') || playing) one('.seek').value = time;
  const button = one('.play'), label = playing ? 'Pause' : 'Play';
  if (button.getAttribute('aria-label') !== label) {
    button.setAttribute('aria-label', label);
    button.firstElementChild.textContent = playing ? '❚❚' : '▶';
  }
}

// ---- events

element.addEventListener('click', (event) => {
  const picture = event.target.closest('.picture'), choice = event.target.closest('.choice');
  if (event.target.closest('.play')) toggle();
  else if (choice) choose([...element.querySelectorAll('.choice')].indexOf(choice));
  else if (picture) {
    const box = picture.getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * length());
  }
});
element.addEventListener('input', (event) => { if (event.target.matches('.seek')) seek(+event.target.value); });
element.addEventListener('change', (event) => {
  if (event.target.matches('.equal')) balance();
  if (event.target.matches('.loop') && playing) { stop(); play(); }
});
document.addEventListener('keydown', (event) => {
  if (!shown || !root.isConnected || root.offsetParent === null || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target, typed = target.closest('input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable=true]');
  if (typed) return;
  const arrows = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
  if (['1', '2', '3'].includes(event.key)) choose(+event.key - 1);
  else if (target.matches('.choice') && event.key in arrows) {
    choose((current + arrows[event.key] + 3) % 3);
    element.querySelectorAll('.choice')[current].focus();
  } else if (event.key === ' ' && (target === document.body || target.matches('.choice, .seek'))) toggle();
  else return;
  event.preventDefault();
});
document.addEventListener('play', () => stop(), true); // another player of the page has started
new MutationObserver(() => shown && element.querySelectorAll('.picture canvas').forEach((canvas, i) => paint(canvas, shown.tracks[i].picture)))
  .observe(document.body, { attributes: true, attributeFilter: ['class'] });
root.ab = { position, toggle, seek, choose, state: () => ({ playing, current, ready: buffers.length, mix, context, buffers, startedAt, offset, gains: voices.map(({ gain }) => gain.gain.value) }) };
watch('value', draw);
draw();
