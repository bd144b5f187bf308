// Runs once per view. `element`, `props`, `watch` and `trigger` come from Gradio.
const one = (selector) => element.querySelector(selector);
const all = (selector) => [...element.querySelectorAll(selector)];
const made = (tag, attributes = {}, text = '') => {
  const node = Object.assign(document.createElement(tag), { textContent: text });
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const UNDEFINED = 255, LEVELS = 31, LEAP = 4; // classes apart that no line joins
const KINDS = {
  agreement: ['Agreement', 'Share of frames whose most probable class is that of the end'],
  bounded: ['Bounded emergence', 'Way made from noise beside the way left to the end: a / (a + b), over all classes'],
};
const RUNS = { song: 'A  unsteered', steered: 'B  steered' };

let song = null; // the value, with what the news added
let run = 'song', step = 0, kind = 'agreement';
let busy = false; // a run is being made: nothing of it can be heard yet
let wanted = null; // the sound to play as soon as it is there
let replaying = null;
const narrow = matchMedia('(max-width: 700px)');
const players = new Map(); // audio elements by "run step"
const levels = new Map(); // decoded pictures by "run step signal"

// ---- what comes from the server

function take() {
  const value = props.value;
  if (!value) return;
  const same = song && song.id === value.id, last = same ? song.runs[run].points.length - 1 : 0, before = step;
  const end = same && before === song.runs[run].points[last];
  song = JSON.parse(JSON.stringify(value)); // ours to add the news to
  busy = !value.complete;
  stopReplay();
  if (!same || !song.runs[run]) run = value.show || 'song';
  if (same && value.show && value.show !== run) run = value.show;
  const points = song.runs[run].points;
  step = same && !end && points.includes(before) ? before : value.at ?? points[points.length - 1] ?? 0;
  if (!same) { forget(); levels.clear(); }
  if (value.fresh) forget(value.fresh);
  frame();
  draw();
  if (!busy) says(null);
  prefetch();
}

function hear_of() {
  const news = props.news;
  if (!news || !song || news.id !== song.id) return;
  if (news.over) { take(); return; }
  busy = true;
  says(news);
  if (!news.read) { buttons(); return; }
  stopReplay();
  pause();
  const mine = (song.runs[news.run] ||= { points: [], read: {}, curves: {}, ends: {} });
  if (news.step === 0) { mine.points = []; mine.read = {}; levels.clear(); }
  mine.points.push(news.step);
  mine.read[news.step] = news.read;
  mine.curves = news.curves;
  mine.soft = true;
  mine.ends = {};
  run = news.run;
  step = news.step;
  if (news.step === 0) {
    frame();
    const box = element.getBoundingClientRect();
    if (box.bottom < 200 || box.top > innerHeight - 200) element.scrollIntoView();
  }
  draw();
}

function heard() {
  const sound = props.heard;
  asked = 0;
  if (!sound || !song || sound.id !== song.id) { if (wanted) ask(); return; }
  const key = `${sound.run} ${sound.step}`;
  if (players.has(key)) return;
  const player = made('audio', { preload: 'auto', 'data-sound': key });
  player.src = URL.createObjectURL(new Blob([bytes(sound.wav)], { type: 'audio/wav' }));
  player.onplay = tick;
  player.onpause = player.onended = transport;
  players.set(key, player);
  element.append(player);
  if (wanted && wanted.key === key) { // goes on where the step before it is by now
    const time = playing() ? playing().currentTime : wanted.time;
    wanted = null;
    start(player, time);
  }
  transport();
  if (!current()) ask(); // the step moved on while this one was decoded
}

function says(news) {
  one('.progress').hidden = !news;
  if (!news) { one('.says').textContent = ''; return; }
  one('.says').textContent = news.says;
  one('.track i').style.width = `${100 * news.step / Math.max(1, news.of - 1)}%`;
}

// ---- frame: what stays while steps change

function frame() {
  one('.title').textContent = song.title;
  one('.how').textContent = song.how;
  all('.gutter').forEach((old, i) => { if (i) old.remove(); });
  one('.gutter').replaceChildren();
  all('.lanes').forEach((lanes) => lanes.replaceChildren());
  for (const property of song.properties) {
    const left = made('div', { class: `lane ${property.name}` });
    for (const [place, name] of property.ticks) left.append(made('span', { class: 'tick', style: `bottom:${100 * place}%` }, name));
    one('.gutter').append(left);
    for (const lanes of all('.lanes')) {
      const lane = made('div', { class: `lane ${property.name}`, 'data-property': property.name });
      lane.append(made('canvas'), svg(`0 0 ${song.columns} ${property.rows}`, '<path class="end"/>', 'none'));
      lane.append(made('span', { class: 'name' }, property.title), made('div', { class: 'cursor' }));
      lanes.append(lane);
    }
  }
  for (const lanes of all('.lanes')) {
    const axis = made('div', { class: 'axis' }), every = song.seconds > 4 ? 2 : 1;
    for (let t = 0; t < song.seconds - 0.3; t += every) axis.append(made('span', { style: `left:${100 * t / song.seconds}%` }, `${t} s`));
    axis.append(made('span', { style: 'left:100%' }, `${+song.seconds.toFixed(1)} s`));
    lanes.append(axis);
  }
  const second = one('.gutter').cloneNode(true);
  second.classList.add('second');
  one('.maps').append(second);
  second.hidden = !narrow.matches;
  one('.kinds').replaceChildren(...Object.entries(KINDS).map(([key, [title, means]]) => {
    const button = radio(title, key === kind, () => { kind = key; frame(); draw(); });
    button.title = means;
    return button;
  }));
  const shown = Object.keys(RUNS).filter((name) => song.runs[name] && song.runs[name].points.length);
  one('.runs').hidden = shown.length < 2;
  one('.runs').replaceChildren(...shown.map((name) => radio(RUNS[name], name === run, () => choose(name))));
  one('.measured').replaceChildren(...(song.table ? [table(song.table)] : []));
}

function radio(title, checked, chosen) {
  const button = made('button', { type: 'button', role: 'radio', 'aria-checked': checked, tabindex: checked ? 0 : -1 }, title);
  button.onclick = () => { const group = button.parentNode.className; chosen(); one(`.${group} [aria-checked="true"]`).focus(); };
  button.onkeydown = (event) => {
    if (!['ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown'].includes(event.key)) return;
    event.preventDefault();
    const next = event.key === 'ArrowLeft' || event.key === 'ArrowUp' ? button.previousSibling : button.nextSibling;
    if (next) next.click();
  };
  return button;
}

function table({ caption, rows }) {
  const out = made('table'), head = made('tr');
  out.append(made('caption', {}, caption));
  for (const title of ['', 'Asked', 'Unsteered', 'Steered', 'Change']) head.append(made('th', { scope: 'col' }, title));
  const body = made('tbody');
  for (const row of rows) {
    const line = made('tr', row.asked ? { class: 'asked' } : {});
    line.append(made('th', { scope: 'row' }, row.title), ...[row.asked || '–', row.before, row.after, row.change].map((cell) => made('td', {}, cell)));
    body.append(line);
  }
  const top = made('thead');
  top.append(head);
  out.append(top, body);
  return out;
}

function svg(box, inside, fit = 'xMidYMid meet') {
  const holder = made('div');
  holder.innerHTML = `<svg viewBox="${box}" preserveAspectRatio="${fit}" aria-hidden="true">${inside}</svg>`;
  return holder.firstChild;
}

// ---- what changes with the step

function draw() {
  const mine = song.runs[run], index = Math.max(0, mine.points.indexOf(step)), slider = one('.scrub');
  slider.max = mine.soft ? song.times.length - 1 : Math.max(1, mine.points.length - 1);
  slider.value = index;
  slider.disabled = mine.points.length < 2;
  const last = song.times.length - 1;
  const words = `Step ${step} of ${last}${step === last ? ', the result' : step === 0 ? ', noise' : ''} · flow time ${song.times[step].toFixed(2)}`;
  one('.where').textContent = words;
  slider.setAttribute('aria-valuetext', words);
  paint();
  curves();
  buttons();
  reading(null);
}

async function unpack(key, packed) {
  if (!levels.has(key)) {
    const stream = new Blob([bytes(packed)]).stream().pipeThrough(new DecompressionStream('deflate'));
    levels.set(key, new Uint8Array(await new Response(stream).arrayBuffer()));
  }
  return levels.get(key);
}

async function paint() {
  const mine = song.runs[run], read = mine.read[step], at = `${run} ${step}`, id = song.id;
  if (!read) return;
  const map = bytes(props.colours[document.body.classList.contains('dark') ? 'dark' : 'light']);
  for (const figure of all('.map')) {
    const signal = figure.dataset.signal, level = await unpack(`${at} ${signal}`, read[signal]);
    if (at !== `${run} ${step}` || id !== song.id) return; // another step was chosen meanwhile
    let from = 0;
    for (const property of song.properties) {
      const lane = figure.querySelector(`.lane.${property.name}`), canvas = lane.querySelector('canvas');
      const image = new ImageData(song.columns, property.rows);
      canvas.width = song.columns;
      canvas.height = property.rows;
      for (let i = 0; i < property.rows * song.columns; i++) {
        const c = 3 * Math.round(level[from + i] * 255 / LEVELS);
        image.data.set([map[c], map[c + 1], map[c + 2], 255], 4 * i);
      }
      canvas.getContext('2d').putImageData(image, 0, 0);
      lane.querySelector('.end').setAttribute('d', end(mine.ends[property.name], property.rows));
      from += property.rows * song.columns;
    }
  }
  element.dataset.drawn = at;
}

function end(packed, rows) { // the class measured on the finished sound, as steps
  if (!packed) return '';
  let path = '', before = UNDEFINED;
  bytes(packed).forEach((value, i) => {
    if (value !== UNDEFINED) {
      const y = rows - value - 0.5;
      path += `${before === UNDEFINED || Math.abs(value - before) > LEAP ? 'M' : 'L'}${i} ${y}H${i + 1}`;
    }
    before = value;
  });
  return path;
}

const HIGH = 150, LEFT = 24, BOTTOM = 20;
let wide = 280; // of one panel, in pixels
const px = (t) => LEFT + t * (wide - LEFT - 4), py = (v) => 6 + (1 - v) * (HIGH - BOTTOM - 6);
const path = (times, values) => {
  let out = '', drawing = false;
  values.forEach((v, i) => {
    if (v === null || v === undefined) { drawing = false; return; }
    out += `${drawing ? 'L' : 'M'}${px(times[i]).toFixed(1)} ${py(v).toFixed(1)}`;
    drawing = true;
  });
  return out;
};

function curves() {
  const panels = narrow.matches ? 1 : song.properties.length, room = one('.curves').clientWidth;
  if (room) wide = (room - 18 * (panels - 1)) / panels;
  const mine = song.runs[run], control = song.runs.control, base = run === 'steered' ? song.runs.song : null;
  one('.curves').replaceChildren(...song.properties.map((property) => {
    const own = (from, signal) => ((from && from.curves[property.name] || {})[kind] || {})[signal] || [];
    let inside = '';
    if (song.window && run === 'steered') inside += `<rect class="window" x="${px(song.window[0])}" y="${py(1)}" width="${px(song.window[1]) - px(song.window[0])}" height="${py(0) - py(1)}"/>`;
    for (const v of [0, 0.5, 1]) inside += `<line class="grid" x1="${px(0)}" x2="${px(1)}" y1="${py(v)}" y2="${py(v)}"/><text x="${LEFT - 6}" y="${py(v) + 4}" text-anchor="end">${v ? (v === 1 ? '1' : '½') : '0'}</text>`;
    if (kind === 'agreement') inside += `<line class="level" x1="${px(0)}" x2="${px(1)}" y1="${py(0.9)}" y2="${py(0.9)}"/>`;
    inside += `<text x="${px(0)}" y="${HIGH - 4}">noise</text><text x="${px(1)}" y="${HIGH - 4}" text-anchor="end">result</text>`;
    const lines = [['c_t', control, 'x_t'], ['c1', control, 'x1'], ['u1', base, 'x1'], ['x_t', mine, 'x_t'], ['x1', mine, 'x1']];
    for (const [look, from, signal] of lines) inside += `<path class="l ${look}" d="${path(song.times, own(from, signal))}"/>`;
    const heardAt = (mine.curves[property.name] || {}).measured;
    if (kind === 'agreement' && heardAt) heardAt.points.forEach((point, i) => {
      if (heardAt.agreement[i] !== null) inside += `<circle class="dot" r="3" cx="${px(song.times[point])}" cy="${py(heardAt.agreement[i])}"/>`;
    });
    inside += `<line class="now" x1="${px(song.times[step])}" x2="${px(song.times[step])}" y1="${py(1)}" y2="${py(0)}"/>`;
    const box = made('div', { class: `curve${mine.soft ? ' soft' : ''}`, 'data-property': property.name });
    const title = made('h3', {}, property.title), decided = mine.soft ? null : mine.curves[property.name]?.decided?.x1;
    if (kind === 'agreement' && typeof decided === 'number') title.append(made('span', {}, `x̂₁ ≥ 90 % from t = ${between(decided).toFixed(2)}`));
    box.append(title, svg(`0 0 ${wide} ${HIGH}`, inside));
    return box;
  }));
  legend(mine, control, base);
}

function between(point) { // flow time at a point between two steps
  const low = Math.min(Math.floor(point), song.times.length - 2);
  return song.times[low] + (point - low) * (song.times[low + 1] - song.times[low]);
}

function legend(mine, control, base) {
  const dots = kind === 'agreement' && song.properties.some((p) => (mine.curves[p.name] || {}).measured);
  const entries = [['x1', 'x̂₁'], ['x_t', 'xₜ'], ...(base ? [['u1', 'x̂₁ unsteered']] : []),
    ...(control ? [['c1', 'control, x̂₁'], ['c_t', 'control, xₜ: noised sound']] : [])];
  const out = entries.map(([look, title]) => {
    const entry = made('span');
    entry.append(svg('0 0 28 10', `<path class="l ${look}" d="M0 5H28"/>`), title);
    return entry;
  });
  if (dots) { const entry = made('span'); entry.append(svg('0 0 28 10', '<circle class="dot" r="3.5" cx="14" cy="5"/>'), 'measured on decoded x̂₁'); out.push(entry); }
  if (mine.soft) out.push(made('span', {}, 'so far, against the newest x̂₁'));
  one('.legend').replaceChildren(...out);
}

function reading(place) {
  const out = one('.read');
  if (!place) { out.textContent = 'Colour: how probable the probe on the SAE’s features holds each class. Line: measured on the finished sound.'; return; }
  const { signal, property, column, row } = place, level = levels.get(`${run} ${step} ${signal}`);
  if (!level) return;
  const at = song.properties.indexOf(property);
  const from = song.properties.slice(0, at).reduce((sum, p) => sum + p.rows * song.columns, 0);
  const sure = (r) => (level[from + (property.rows - 1 - r) * song.columns + column] / LEVELS) ** 2;
  let best = 0;
  for (let r = 1; r < property.rows; r++) if (sure(r) > sure(best)) best = r;
  const said = (r) => `${property.classes[r]} ${Math.round(100 * sure(r))} %`;
  const time = (column + 0.5) / song.columns * song.seconds;
  out.textContent = `${time.toFixed(2)} s, ${property.title.toLowerCase()} in ${signal === 'x1' ? 'x̂₁' : 'xₜ'}: ${said(row)}; most probable ${said(best)}`;
}

// ---- sound: decoded on the server when it is asked for, kept here, all on one clock

const key = () => `${run} ${step}`;
const current = () => players.get(key());
const playing = () => [...players.values()].find((player) => !player.paused);

const PATIENCE = 20_000; // milliseconds until an answer counts as lost
let asked = 0; // when the sound was asked for that has not come yet; one at a time

function ask() {
  if (busy || players.has(key()) || Date.now() - asked < PATIENCE) return;
  asked = Date.now();
  trigger('hear', { id: song.id, run, step });
}

let soon = null;
function prefetch() { // so that play is instant
  clearTimeout(soon);
  if (busy || !element.offsetParent) return;
  soon = setTimeout(ask, 200);
}
new IntersectionObserver((seen) => { if (song && seen.some((entry) => entry.isIntersecting)) prefetch(); }).observe(element);

function forget(which) {
  for (const [name, player] of players) {
    if (which && !name.startsWith(`${which} `)) continue;
    player.pause();
    URL.revokeObjectURL(player.src);
    player.remove();
    players.delete(name);
  }
  if (which) for (const name of levels.keys()) if (name.startsWith(`${which} `)) levels.delete(name);
}

function start(player, time) {
  document.querySelectorAll('audio').forEach((other) => { if (other !== player) other.pause(); });
  player.currentTime = Math.min(time, song.seconds - 0.02);
  player.play();
}

function pause() { wanted = null; const now = playing(); if (now) now.pause(); }

let clock = 0; // where playback stands, also when nothing plays
function toggle() {
  if (playing()) { clock = playing().currentTime; pause(); return; }
  if (clock > song.seconds - 0.05) clock = 0;
  play(clock);
}

function play(time) {
  const player = current();
  if (player) { start(player, time); return; }
  wanted = { key: key(), time };
  transport();
  clearTimeout(soon);
  ask();
}

function moved() { // another step or run: what plays goes on there, at the same moment
  const now = playing();
  if (now && now !== current()) {
    const time = now.currentTime;
    if (current()) start(current(), time); else play(time);
  }
  prefetch();
}

function seek(time) {
  clock = clamp(time, 0, song.seconds);
  if (playing()) playing().currentTime = clock;
  transport();
}

function tick() {
  const now = playing();
  transport();
  if (now) requestAnimationFrame(tick);
}

function transport() {
  const now = playing();
  if (now) clock = now.currentTime;
  if (current() && current().ended) clock = song.seconds;
  all('.cursor').forEach((cursor) => { cursor.style.left = `${100 * clamp(clock / song.seconds, 0, 1)}%`; });
  const button = one('.play');
  button.classList.toggle('waiting', !!wanted);
  button.firstElementChild.textContent = now ? '❚❚' : '▶';
  button.setAttribute('aria-label', now ? 'Pause' : 'Play x̂₁ of this step, decoded');
  const save = one('.save'), player = current();
  save.setAttribute('aria-disabled', !player);
  if (player) { save.href = player.src; save.download = `${run}-step-${step}.wav`; } else save.removeAttribute('href');
}

function buttons() {
  one('.play').disabled = one('.replay').disabled = busy;
  transport();
}

// ---- moving about

function go(index) {
  const points = song.runs[run].points;
  step = points[clamp(index, 0, points.length - 1)];
  draw();
  moved();
}

function choose(name) {
  run = name;
  const points = song.runs[run].points;
  if (!points.includes(step)) step = points[points.length - 1];
  frame();
  draw();
  moved();
}

function stopReplay() { clearInterval(replaying); replaying = null; one('.replay').textContent = 'Replay'; }

function replay() {
  if (replaying) { stopReplay(); return; }
  const points = song.runs[run].points;
  let index = 0;
  one('.replay').textContent = 'Stop';
  const next = () => {
    step = points[index];
    draw();
    if (++index >= points.length) { stopReplay(); prefetch(); }
  };
  replaying = setInterval(next, clamp(3600 / points.length, 110, 450));
  next();
}

function under(event) {
  const lane = event.target.closest('.lanes .lane');
  if (!lane || !song) return null;
  const box = lane.getBoundingClientRect(), property = song.properties.find((p) => p.name === lane.dataset.property);
  const x = clamp((event.clientX - box.left) / box.width, 0, 0.9999), y = clamp((event.clientY - box.top) / box.height, 0, 0.9999);
  const row = property.rows - 1 - Math.floor(y * property.rows);
  return { signal: lane.closest('.map').dataset.signal, property, column: Math.floor(x * song.columns), row, time: x * song.seconds };
}

one('.scrub').addEventListener('input', (event) => { stopReplay(); go(+event.target.value); });
one('.play').addEventListener('click', toggle);
one('.replay').addEventListener('click', replay);
element.addEventListener('pointermove', (event) => { const place = under(event); if (place) reading(place); });
one('.maps').addEventListener('pointerleave', () => reading(null));
element.addEventListener('click', (event) => {
  const place = under(event), curve = event.target.closest('.curve svg');
  if (place) seek(place.time);
  if (curve && song) {
    const box = curve.getBoundingClientRect(), t = ((event.clientX - box.left) / box.width * wide - LEFT) / (wide - LEFT - 4);
    const points = song.runs[run].points;
    stopReplay();
    go(points.reduce((best, point, i) => (Math.abs(song.times[point] - t) < Math.abs(song.times[points[best]] - t) ? i : best), 0));
  }
});
new MutationObserver(() => song && paint()).observe(document.body, { attributeFilter: ['class'] });
narrow.addEventListener('change', () => { if (song) { frame(); draw(); } });
new ResizeObserver(() => song && curves()).observe(one('.curves'));

watch('value', take);
// Gradio takes any quoted word of this file for the name of an event, and then cannot tell it from a property.
const [NEWS, HEARD] = Object.keys({ news: 0, heard: 0 });
watch(NEWS, hear_of);
watch(HEARD, heard);
take();
