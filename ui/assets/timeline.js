// Runs once per view. `element`, `props`, `watch` and `trigger` come from Gradio.
const one = (selector) => element.querySelector(selector);
const made = (tag, attributes = {}, text = '') => {
  const node = Object.assign(document.createElement(tag), { textContent: text });
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const UNDEFINED = 255;
// Gradio takes any quoted word of this file for the name of an event, and then cannot tell it from a property.
const [TRACKS, CHOSEN] = Object.keys({ tracks: 0, chosen: 0 });

let sound = null; // what is drawn: the value
let players = []; // one audio element per track; only the current one plays
let current = 0;
let zoom = 1;
let pointer = null; // {time, feature} under the mouse
let stopAt = null; // an excerpt ends here, in seconds

// ---- drawing

function palette() {
  const map = bytes(props.colours[document.body.classList.contains('dark') ? 'dark' : 'light']);
  return (level) => [map[3 * level], map[3 * level + 1], map[3 * level + 2]];
}

function paint(canvas, rows, columns, level) {
  canvas.width = columns;
  canvas.height = rows;
  const colour = palette(), image = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const [red, green, blue] = colour(level[i]);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

function line(curve, closed) {
  let path = '', drawing = false;
  curve.forEach((value, i) => {
    if (!closed && value === UNDEFINED) { drawing = false; return; }
    path += `${drawing ? 'L' : 'M'}${i + 0.5} ${(closed ? 255 : 254) - value}`;
    drawing = true;
  });
  return closed ? `M0 255L${path.slice(1)}L${curve.length} 255Z` : path;
}

function overlay(curve, closed = false) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${curve.length} 255`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', line(curve, closed));
  svg.append(path);
  return svg;
}

function lane(name, title, ticks = []) {
  const left = made('div', { class: `lane ${name}` }), right = made('div', { class: `lane ${name}` });
  if (title) left.append(made('span', { class: 'title', title }, title));
  one('.gutter').append(left);
  one('.lanes').append(right);
  let last = -Infinity; // where the mark before is, in pixels from the bottom
  for (const [place, label] of ticks) {
    const height = place * left.clientHeight;
    if (height < last + 14 || height < 5 || height > left.clientHeight - 5) continue;
    left.append(made('span', { class: 'tick', style: `bottom:${100 * place}%` }, label));
    last = height;
  }
  return [left, right];
}

function raster(right, rows, columns, level) {
  const canvas = made('canvas');
  right.append(canvas);
  paint(canvas, rows, columns, level);
}

function drawFeatures() {
  const [left, right] = lane('features', '');
  const level = new Uint8Array(sound.features.length * sound.frames);
  sound.features.forEach((feature, row) => {
    level.set(feature.level, row * sound.frames);
    const button = made('button', { type: 'button', class: 'row', 'data-feature': feature.feature, 'aria-pressed': 'false' });
    button.append(made('b', {}, feature.feature), feature.name);
    button.title = `feature ${feature.feature}: ${feature.name}`;
    left.append(button);
  });
  right.style.height = `${17 * sound.features.length}px`;
  if (sound.features.length) raster(right, sound.features.length, sound.frames, level);
  else left.append(made('span', { class: 'title' }, 'No feature fires'));
}

function drawChosen() {
  element.querySelectorAll('.lane.chosen').forEach((old) => old.remove());
  element.querySelectorAll('.band').forEach((old) => old.remove());
  const chosen = sound && props.chosen;
  element.querySelectorAll('.row').forEach((row) => row.setAttribute('aria-pressed', chosen && +row.dataset.feature === chosen.feature));
  if (!chosen) return;
  const row = sound.features.findIndex((feature) => feature.feature === chosen.feature);
  if (row >= 0) element.querySelector('.lanes .features').append(made('div', { class: 'band', style: `top:${17 * row}px` }));
  const [left, right] = lane('chosen one', `${chosen.feature} ${chosen.name}`);
  right.append(overlay(bytes(chosen.data), true));
  one('.gutter .features').after(left);
  one('.lanes .features').after(right);
}

function drawAxis() {
  const [, right] = lane('axis', '');
  const wide = right.clientWidth / sound.duration; // pixels per second
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((seconds) => seconds * wide > 56) || 20;
  for (let time = 0; time < sound.duration - 0.35 * step; time += step) {
    right.append(made('span', { style: `left:${100 * time / sound.duration}%` }, `${+time.toFixed(1)} s`));
  }
}

function draw() {
  const value = props.value;
  one('.timeline').hidden = !value;
  one('.gutter').replaceChildren();
  one('.lanes').replaceChildren();
  if (!value) { sound = null; load([]); return; }
  const fresh = !sound || sound.value !== value;
  sound = { ...value, value };
  sound.features = value.features.map((feature) => ({ ...feature, level: bytes(feature.data) }));
  sound.properties = value.properties.map((lane) => ({ ...lane, curve: bytes(lane.curve), posterior: bytes(lane.posterior) }));
  const [, top] = lane('spectrogram', 'Spectrum', value.spectrogram.ticks);
  raster(top, value.spectrogram.rows, value.spectrogram.columns, bytes(value.spectrogram.data));
  drawFeatures();
  for (const property of sound.properties) {
    const [left, right] = lane(property.name, property.title, property.ticks);
    if (property === sound.properties[0]) {
      left.append(made('span', { class: 'legend' }, 'dashes: measured'), made('span', { class: 'legend second' }, 'shade: probe'));
    }
    raster(right, property.rows, sound.frames, property.posterior);
    right.append(overlay(property.curve));
  }
  drawAxis();
  drawChosen();
  one('.length').textContent = `${sound.duration.toFixed(2)} s`;
  one('.slider').setAttribute('aria-valuemax', sound.duration.toFixed(2));
  if (fresh) { setZoom(1); load([value.sound]); }
  show();
}

// ---- sound: all tracks keep one clock

const playing = () => players.length && !players[current].paused;
const now = () => (players.length ? players[current].currentTime : 0);

function load(tracks) {
  players.forEach((player) => { player.pause(); URL.revokeObjectURL(player.src); player.remove(); });
  players = tracks.map((track) => {
    const player = made('audio', { preload: 'auto', title: track.title });
    player.src = URL.createObjectURL(new Blob([bytes(track.wav)], { type: 'audio/wav' }));
    player.level = track.level_db;
    player.addEventListener('play', alone);
    for (const event of ['pause', 'seeked', 'ended', 'timeupdate']) player.addEventListener(event, show);
    element.append(player);
    return player;
  });
  current = 0;
  one('.tracks').replaceChildren(...tracks.map((track, i) => made('button', {
    type: 'button', role: 'radio', 'aria-checked': i === 0, tabindex: i === 0 ? 0 : -1,
  }, track.short || track.title)));
  one('.tracks').hidden = one('.level').hidden = tracks.length < 2;
  balance();
}

function balance() {
  const quietest = Math.min(...players.map((player) => player.level));
  const equal = one('.level input').checked;
  players.forEach((player) => { player.volume = equal ? 10 ** ((quietest - player.level) / 20) : 1; });
}

function choose(index) {
  const time = now(), going = playing();
  if (players.length) players[current].pause();
  current = index;
  players[current].currentTime = time;
  if (going) players[current].play();
  one('.tracks').childNodes.forEach((button, i) => {
    button.setAttribute('aria-checked', i === index);
    button.tabIndex = i === index ? 0 : -1;
  });
}

function alone() {
  document.querySelectorAll('audio').forEach((other) => { if (other !== players[current]) other.pause(); });
  requestAnimationFrame(tick);
}

function tick() {
  if (!playing()) { show(); return; }
  if (stopAt !== null && now() >= stopAt) { stopAt = null; players[current].pause(); }
  follow();
  show();
  requestAnimationFrame(tick);
}

function toggle() {
  if (!players.length) return;
  stopAt = null;
  if (playing()) players[current].pause();
  else { if (now() >= sound.duration - 0.02) seek(0); players[current].play(); }
}

function seek(time) {
  if (!sound || !players.length) return;
  stopAt = null;
  players[current].currentTime = clamp(time, 0, sound.duration);
  follow();
  show();
}

// ---- reading off

function show() {
  if (!sound) return;
  const time = now(), share = clamp(time / sound.duration, 0, 1);
  one('.cursor').style.left = `${100 * share}%`;
  one('.now').textContent = time.toFixed(2);
  const button = one('.play'), label = playing() ? 'Pause' : 'Play';
  if (button.getAttribute('aria-label') !== label) {
    button.setAttribute('aria-label', label);
    button.firstElementChild.textContent = playing() ? '❚❚' : '▶';
  }
  const slider = one('.slider');
  slider.setAttribute('aria-valuenow', time.toFixed(2));
  slider.setAttribute('aria-valuetext', `${time.toFixed(2)} seconds`);
  read(pointer || { time });
}

const cell = (key, value, below) => {
  const box = made('div');
  box.append(made('div', { class: 'k' }, key), made('div', { class: 'v' }, value), made('div', { class: 'p' }, below));
  return box;
};

function read({ time, row }) {
  const frame = clamp(Math.floor(time * sound.frame_rate), 0, sound.frames - 1);
  const cells = [cell(pointer ? 'At the pointer' : 'At the cursor', `${time.toFixed(2)} s`, `frame ${frame}`)];
  for (const property of sound.properties) {
    const { rows, posterior } = property, value = property.values[frame];
    let best = 0;
    for (let r = 1; r < rows; r++) if (posterior[r * sound.frames + frame] > posterior[best * sound.frames + frame]) best = r;
    const sure = Math.round(posterior[best * sound.frames + frame] / 2.55);
    const digits = { pitch: 0, loudness: 1, brightness: 0 }[property.name] ?? 2;
    const silent = property.name === 'pitch' ? 'no pitch' : '–';
    cells.push(cell(property.title, value === null ? silent : `${value.toFixed(digits)} ${property.unit}`,
      sure ? `probe: ${property.classes[rows - 1 - best]}, ${sure} %` : 'silence'));
  }
  cells.push(readFeature(frame, row));
  one('.read').replaceChildren(...cells);
}

function readFeature(frame, row) {
  const under = row === undefined ? undefined : sound.features[row];
  let feature = under, level = under && under.level[frame];
  if (!feature && props.chosen) { feature = props.chosen; level = bytes(feature.data)[frame]; }
  if (feature) return cell('Activation', (level / 255 * feature.scale).toFixed(2), `${feature.feature} ${feature.name}`);
  const strongest = sound.features.reduce((best, next) => (next.level[frame] > (best ? best.level[frame] : 0) ? next : best), null);
  if (!strongest) return cell('Strongest feature', '–', '');
  return cell('Strongest feature', `${strongest.feature}`, strongest.name);
}

// ---- saving

function save(url, ending) {
  const title = [sound.name, current ? players[current].title : ''].filter(Boolean).join(', ');
  const link = made('a', { href: url, download: `${title.replace(/[^\p{L}\p{N} ,.#-]+/gu, ' ')}.${ending}` });
  element.append(link);
  link.click();
  link.remove();
}

function savePicture() {
  const style = getComputedStyle(one('.timeline')), rows = sound.features.length, left = 190, wide = 1200, line = 20;
  const canvas = Object.assign(document.createElement('canvas'), { width: left + wide + 20, height: 60 + 240 + rows * line + 40 });
  const context = canvas.getContext('2d'), at = (place) => left + wide * place / sound.duration;
  context.fillStyle = document.body.classList.contains('dark') ? '#18181b' : '#ffffff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(one('.lanes .spectrogram canvas'), left, 50, wide, 240);
  if (rows) context.drawImage(one('.lanes .features canvas'), left, 298, wide, rows * line);
  context.fillStyle = style.color;
  context.font = `600 18px ${style.fontFamily}`;
  context.fillText(sound.name, 16, 32);
  context.font = `12px ${style.fontFamily}`;
  sound.features.forEach((feature, row) => context.fillText(`${feature.feature}  ${feature.name}`, 16, 298 + row * line + 14));
  for (const [place, label] of sound.value.spectrogram.ticks) context.fillText(label, 120, 50 + 240 * (1 - place) + 4);
  for (let time = 0; time < sound.duration; time += Math.ceil(sound.duration / 12)) context.fillText(`${time} s`, at(time), 298 + rows * line + 20);
  save(canvas.toDataURL('image/png'), 'png');
}

// ---- moving about

function setZoom(factor) {
  if (!sound) return;
  const scroll = one('.scroll'), middle = now() / sound.duration;
  const most = Math.max(1, 12 * sound.frames / scroll.clientWidth);
  zoom = clamp(factor, 1, most);
  one('.inner').style.width = `${100 * zoom}%`;
  scroll.scrollLeft = middle * scroll.scrollWidth - scroll.clientWidth / 2;
  element.querySelectorAll('.lane.axis').forEach((old) => old.remove());
  drawAxis();
}

function follow() {
  if (zoom === 1) return;
  const scroll = one('.scroll'), place = now() / sound.duration * scroll.scrollWidth;
  if (place < scroll.scrollLeft || place > scroll.scrollLeft + 0.9 * scroll.clientWidth) {
    scroll.scrollLeft = place - 0.1 * scroll.clientWidth;
  }
}

function at(event) {
  const box = one('.inner').getBoundingClientRect();
  const time = clamp((event.clientX - box.left) / box.width, 0, 1) * sound.duration;
  const lanes = one('.lanes .features').getBoundingClientRect();
  const row = Math.floor((event.clientY - lanes.top) / 17);
  return { time, row: row >= 0 && row < sound.features.length ? row : undefined };
}

function step(by) {
  const rows = sound.features.map((feature) => feature.feature);
  if (!rows.length) return;
  const at = props.chosen ? rows.indexOf(props.chosen.feature) : -1;
  trigger('pick', { feature: rows[clamp(at < 0 ? 0 : at + by, 0, rows.length - 1)] });
}

element.addEventListener('click', (event) => {
  if (!sound) return;
  const button = event.target.closest('button');
  if (event.target.closest('.inner')) {
    const { time, row } = at(event);
    seek(time);
    if (row !== undefined) trigger('pick', { feature: sound.features[row].feature });
  } else if (button?.classList.contains('play')) toggle();
  else if (button?.classList.contains('in')) setZoom(zoom * 1.6);
  else if (button?.classList.contains('out')) setZoom(zoom / 1.6);
  else if (button?.classList.contains('fit')) setZoom(1);
  else if (button?.classList.contains('wav')) save(players[current].src, 'wav');
  else if (button?.classList.contains('png')) savePicture();
  else if (button?.classList.contains('row')) trigger('pick', { feature: +button.dataset.feature });
  else if (button?.closest('.tracks')) choose([...button.parentNode.children].indexOf(button));
});
element.addEventListener('change', (event) => { if (event.target.closest('.level')) balance(); });
element.addEventListener('pointermove', (event) => {
  if (!sound || event.pointerType === 'touch' || !event.target.closest('.inner')) return;
  pointer = at(event);
  one('.hair').style.visibility = 'visible';
  one('.hair').style.left = `${100 * pointer.time / sound.duration}%`;
  read(pointer);
});
element.addEventListener('pointerout', (event) => {
  if (!sound || event.relatedTarget?.closest?.('.inner')) return;
  pointer = null;
  one('.hair').style.visibility = 'hidden';
  show();
});

const KEYS = {
  ' ': toggle, Enter: toggle, Home: () => seek(0), End: () => seek(sound.duration),
  '+': () => setZoom(zoom * 1.6), '=': () => setZoom(zoom * 1.6), '-': () => setZoom(zoom / 1.6), 0: () => setZoom(1),
  ArrowUp: () => step(-1), ArrowDown: () => step(1),
  ArrowLeft: (event) => seek(now() - (event.shiftKey ? 1 : 1 / sound.frame_rate)),
  ArrowRight: (event) => seek(now() + (event.shiftKey ? 1 : 1 / sound.frame_rate)),
};
element.addEventListener('keydown', (event) => {
  const tracks = event.target.closest('.tracks');
  if (tracks && event.key.startsWith('Arrow')) {
    const way = event.key === 'ArrowRight' || event.key === 'ArrowDown' ? 1 : players.length - 1;
    choose((current + way) % players.length);
    tracks.children[current].focus();
    event.preventDefault();
  } else if (sound && event.target.closest('.slider') && KEYS[event.key] && !event.ctrlKey && !event.metaKey) {
    KEYS[event.key](event);
    event.preventDefault();
  }
});
document.addEventListener('sae:seek', (event) => {
  const { to, time, play, until } = event.detail;
  if (!element.isConnected || !element.closest(`#${to}`)) return;
  seek(time);
  stopAt = until ?? null;
  if (play && !playing()) players[current]?.play();
});

// ---- what Python sends

watch('value', draw);
watch(CHOSEN, () => { drawChosen(); show(); });
watch(TRACKS, () => {
  if (!sound) return;
  const time = now();
  load([{ ...props.value.sound, short: 'Your sound' }, ...props.tracks]);
  if (props.tracks.length) { choose(props.tracks.length); seek(time); players[current].play(); }
});
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ['class'] });
new ResizeObserver(() => { if (sound) setZoom(zoom); }).observe(element);
draw();
