// Runs once per component. `element`, `props`, `watch` and `trigger` come from Gradio.
const one = (selector) => element.querySelector(selector);
const made = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
// Gradio takes any quoted word of this file for the name of an event, and then cannot tell it from a property.
const [SHOWN, CHOSEN] = Object.keys({ shown: 0, chosen: 0 });
const COLUMNS = [
  ['Feature', 'Number of the feature', (i) => i, (i) => String(i)],
  ['Name', 'What it seems to stand for', (i) => data.names[i], (i) => data.names[i]],
  ['Sure', 'Share of its firing that the name explains', (i) => data.confidence[i], (i) => (named(i) ? `${(100 * data.confidence[i]).toFixed(0)} %` : '–')],
  ['Fires in', 'Share of the corpus in which it fires', (i) => data.fires[i], (i) => percent(data.fires[i])],
  ['Typical', 'Mean activation where it fires', (i) => data.typical[i], (i) => data.typical[i].toFixed(2)],
  ['Largest', 'Largest activation in the corpus', (i) => data.largest[i], (i) => data.largest[i].toFixed(2)],
];
const LABEL = { pitch: 'named after pitch, low to high', loudness: 'after loudness', brightness: 'after brightness', unnamed: 'unnamed', dead: 'never fires' };
const LIGHT = { pitch: '#4f46e5', loudness: '#0f766e', brightness: '#b45309', unnamed: '#8e8e97', dead: '#b9b9c0' };
const DARK = { pitch: '#a5b4fc', loudness: '#5eead4', brightness: '#fbbf24', unnamed: '#8e8e97', dead: '#55555e' };
const OTHER = '#db2777'; // a property beyond these
const MARGIN = 26, REACH = 14, PAGE = 100;

let data = null; // the value that is drawn
let order = []; // features of the table, sorted
let isShown = null; // per feature: fits the filter
let sort = { column: 2, down: true };
let rows = PAGE, view = 0;
let zoom = 1, centre = [0, 0]; // of the map, in its own units (-1 to 1)
let under = null, drag = null;

const percent = (share) => `${(100 * share).toFixed(share < 0.001 ? 2 : 1)} %`;
const named = (i) => !['unnamed', 'dead'].includes(data.kinds[i]);
const dark = () => document.body.classList.contains('dark');
const colours = () => (dark() ? DARK : LIGHT);
const mixed = (from, to, share) => `rgb(${from.map((value, i) => Math.round(value + share * (to[i] - value))).join(' ')})`;
const PITCHES = { light: [[24, 20, 90], [129, 140, 248]], dark: [[84, 76, 220], [224, 231, 255]] }; // lowest and highest note
const tone = (i) => (data.pitch[i] === null ? colours()[data.kinds[i]] ?? OTHER : mixed(...PITCHES[dark() ? 'dark' : 'light'], data.pitch[i]));
const places = () => (view === 0 ? data.near : data.axes);

// ---- the map

function project(i) {
  const canvas = one('canvas'), [x, y] = places()[i];
  const half = [canvas.clientWidth / 2 - MARGIN, canvas.clientHeight / 2 - MARGIN];
  return [canvas.clientWidth / 2 + (x - centre[0]) * half[0] * zoom, canvas.clientHeight / 2 - (y - centre[1]) * half[1] * zoom];
}

function axes(pen, width, height, ink) {
  if (view !== 1) return;
  const half = [width / 2 - MARGIN, height / 2 - MARGIN];
  const [x0, y0] = [width / 2 - centre[0] * half[0] * zoom, height / 2 + centre[1] * half[1] * zoom];
  pen.strokeStyle = ink;
  pen.globalAlpha = 0.35;
  pen.beginPath();
  pen.moveTo(0, y0); pen.lineTo(width, y0); pen.moveTo(x0, 0); pen.lineTo(x0, height);
  pen.stroke();
  pen.globalAlpha = 0.8;
  pen.fillStyle = ink;
  const [right, top] = data.reach;
  pen.textAlign = 'right'; pen.fillText(`louder, dB →`, width - 8, clamp(y0 - 6, 14, height - 8));
  pen.textAlign = 'left'; pen.fillText(`↑ brighter, octaves`, clamp(x0 + 6, 6, width - 120), 16);
  for (const share of [-1, -0.5, 0.5, 1]) {
    pen.textAlign = 'center'; pen.fillText((share * right).toFixed(1), x0 + share * half[0] * zoom, clamp(y0 + 14, 14, height - 6));
    pen.textAlign = 'left'; pen.fillText((share * top).toFixed(2), clamp(x0 + 5, 4, width - 34), y0 - share * half[1] * zoom + 4);
  }
  pen.globalAlpha = 1;
}

function paint() {
  const canvas = one('canvas');
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = window.devicePixelRatio || 1;
  if (!data || !width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext('2d'), style = getComputedStyle(canvas), ink = style.getPropertyValue('--body-text-color') || '#333';
  pen.scale(scale, scale);
  pen.font = `11px ${style.fontFamily}`;
  axes(pen, width, height, ink);
  const radius = clamp(110 / Math.sqrt(data.names.length), 1.8, 5) * Math.sqrt(zoom);
  for (const wanted of [false, true]) {
    pen.globalAlpha = wanted ? 0.85 : 0.14;
    for (let i = 0; i < data.names.length; i++) {
      if (isShown[i] !== wanted) continue;
      const [x, y] = project(i);
      pen.fillStyle = tone(i);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  const chosen = props.chosen;
  if (chosen != null && data.names[chosen]) mark(pen, chosen, radius, ink, width);
}

function mark(pen, chosen, radius, ink, width) {
  const [x, y] = project(chosen);
  pen.strokeStyle = ink;
  pen.globalAlpha = 0.5;
  for (const other of data.neighbours[chosen] || []) {
    const [u, v] = project(other);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(u, v); pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.fillStyle = tone(chosen);
  pen.beginPath(); pen.arc(x, y, radius + 3, 0, 7); pen.fill(); pen.stroke();
  pen.font = `600 ${pen.font}`;
  const text = `${chosen} ${data.names[chosen]}`, left = x + pen.measureText(text).width + 14 > width;
  pen.textAlign = left ? 'right' : 'left';
  pen.lineWidth = 4;
  pen.strokeStyle = getComputedStyle(one('.plane')).backgroundColor;
  const at = [x + (left ? -1 : 1) * (radius + 8), y - 8];
  pen.strokeText(text, ...at);
  pen.fillStyle = ink;
  pen.fillText(text, ...at);
}

function nearest(event) {
  const box = one('canvas').getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = null, least = REACH ** 2;
  for (let i = 0; i < data.names.length; i++) {
    if (!isShown[i]) continue;
    const [u, v] = project(i), far = (u - x) ** 2 + (v - y) ** 2;
    if (far < least) { best = i; least = far; }
  }
  return best;
}

function hover(feature) {
  const tip = one('.tip');
  under = feature;
  tip.hidden = feature === null;
  if (feature === null) return;
  const [x, y] = project(feature), plane = one('.plane');
  tip.replaceChildren(made('b', {}, `${feature} ${data.names[feature]}`), made('div', {}, `fires in ${percent(data.fires[feature])} of the corpus`));
  tip.style.left = `${clamp(x + 12, 4, plane.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${y + tip.offsetHeight + 16 > plane.clientHeight ? y - tip.offsetHeight - 12 : y + 12}px`;
}

function towards(dx, dy) { // the next feature in a direction: near, and not far to the side
  const start = props.chosen ?? order[0];
  if (start === undefined) return;
  const [x, y] = project(start);
  let best = null, least = Infinity;
  for (let i = 0; i < data.names.length; i++) {
    if (!isShown[i] || i === start) continue;
    const [u, v] = project(i), along = (u - x) * dx + (v - y) * dy, aside = Math.abs((u - x) * dy - (v - y) * dx);
    if (along > 0.5 && along + 2 * aside < least) { best = i; least = along + 2 * aside; }
  }
  if (best !== null) pick(best);
}

function setZoom(factor) {
  zoom = factor ? clamp(zoom * factor, 1, 12) : 1;
  if (zoom === 1) centre = [0, 0];
  else if (factor > 1 && props.chosen != null) centre = [...places()[props.chosen]];
  paint();
}

// ---- the list

function heads() {
  one('thead tr').replaceChildren(...COLUMNS.map(([title, hint], i) => {
    const head = made('th', { scope: 'col', title: hint });
    if (sort.column === i) head.setAttribute('aria-sort', sort.down ? 'descending' : 'ascending');
    head.append(made('button', { type: 'button', 'data-column': i }, title + (sort.column === i ? (sort.down ? ' ↓' : ' ↑') : '')));
    return head;
  }));
}

function line(i) {
  const row = made('tr', { 'data-feature': i, 'aria-selected': i === props.chosen });
  COLUMNS.forEach(([, , , text], column) => {
    const cell = made('td', column === 1 && !named(i) ? { class: 'vague' } : {}, column ? text(i) : '');
    if (!column) cell.append(made('button', { type: 'button', 'aria-label': `Feature ${i}, ${data.names[i]}` }, text(i)));
    row.append(cell);
  });
  return row;
}

function list() {
  const value = COLUMNS[sort.column][2];
  const compare = (a, b) => (typeof a === 'string' ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  order.sort((a, b) => (sort.down ? -1 : 1) * compare(value(a), value(b)) || a - b);
  heads();
  one('tbody').replaceChildren(...order.slice(0, rows).map(line));
  one('.more').hidden = rows >= order.length;
  const all = data.names.length;
  one('.count').textContent = order.length === all ? `${all.toLocaleString('en')} features` : `${order.length.toLocaleString('en')} of ${all.toLocaleString('en')} features fit`;
}

// ---- what Python sends

function filter() {
  if (!data) return;
  const wanted = props.shown;
  isShown = new Array(data.names.length).fill(!wanted);
  (wanted || []).forEach((i) => { isShown[i] = true; });
  order = wanted ? [...wanted] : data.names.map((_, i) => i);
  rows = PAGE;
  list();
  paint();
}

const gradient = () => `linear-gradient(90deg, ${[0, 1].map((share) => mixed(...PITCHES[dark() ? 'dark' : 'light'], share)).join(', ')})`;

function draw() {
  data = props.value ? JSON.parse(props.value) : null;
  one('.atlas').hidden = !data;
  if (!data) return;
  zoom = 1;
  centre = [0, 0];
  const counts = {}, palette = colours();
  data.kinds.forEach((kind) => { counts[kind] = (counts[kind] || 0) + 1; });
  one('.legend').replaceChildren(...Object.keys({ ...LABEL, ...counts }).filter((kind) => counts[kind]).map((kind) => made('span', {},
    made('i', { style: `background:${kind === 'pitch' ? gradient() : palette[kind] ?? OTHER}` }), `${counts[kind].toLocaleString('en')} ${LABEL[kind] ?? `after ${kind}`}`)));
  one('[data-view="1"]').hidden = !data.axes;
  if (!data.axes) view = 0;
  about();
  filter();
  mine();
}

function about() {
  one('.about').textContent = data.about[view];
  element.querySelectorAll('.views button').forEach((button, i) => {
    button.setAttribute('aria-checked', i === view);
    button.tabIndex = i === view ? 0 : -1;
  });
}

function mine() {
  if (!data) return;
  element.querySelectorAll('tbody tr').forEach((row) => row.setAttribute('aria-selected', +row.dataset.feature === props.chosen));
  paint();
  const feature = props.chosen, query = feature == null ? data.query : `${data.query}&feature=${feature}`;
  one('.link input').value = `${data.base || location.origin + location.pathname}?${query}`;
  const asked = new URLSearchParams(location.search);
  if (feature != null && one('.atlas').offsetParent && asked.get('feature') !== String(feature)) history.replaceState(history.state, '', `?${query}`);
}

const pick = (feature) => trigger('pick', { feature });

// ---- events

const canvas = one('canvas');
canvas.addEventListener('pointermove', (event) => {
  if (!data) return;
  if (drag && zoom > 1) {
    const half = [canvas.clientWidth / 2 - MARGIN, canvas.clientHeight / 2 - MARGIN];
    centre = [drag.centre[0] - (event.clientX - drag.x) / half[0] / zoom, drag.centre[1] + (event.clientY - drag.y) / half[1] / zoom];
    drag.moved = drag.moved || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4;
    hover(null);
    paint();
  } else hover(nearest(event));
});
canvas.addEventListener('pointerdown', (event) => { drag = { x: event.clientX, y: event.clientY, centre: [...centre], moved: false }; });
canvas.addEventListener('pointerleave', () => { drag = null; hover(null); });
canvas.addEventListener('pointerup', (event) => {
  const moved = drag?.moved;
  drag = null;
  const feature = data && !moved ? nearest(event) : null;
  if (feature !== null) pick(feature);
});
canvas.addEventListener('keydown', (event) => {
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in ways) towards(...ways[event.key]);
  else if (event.key === '+') setZoom(1.6);
  else if (event.key === '-') setZoom(0.6);
  else if (event.key === '0') setZoom(0);
  else return;
  event.preventDefault();
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button'), row = event.target.closest('tbody tr');
  if (button?.dataset.view) { view = +button.dataset.view; setZoom(0); about(); paint(); }
  else if (button?.dataset.zoom) setZoom(+button.dataset.zoom);
  else if (button?.dataset.column) {
    const column = +button.dataset.column;
    sort = { column, down: sort.column === column ? !sort.down : column > 1 };
    list();
    one(`th button[data-column="${column}"]`).focus();
  } else if (button?.classList.contains('more')) { rows += PAGE; list(); }
  else if (button?.classList.contains('copy')) copy(button);
  else if (row) pick(+row.dataset.feature);
});
element.addEventListener('keydown', (event) => {
  if (!event.target.closest('.views') || !['ArrowLeft', 'ArrowRight'].includes(event.key) || !data.axes) return;
  view = 1 - view;
  about();
  setZoom(0);
  one(`[data-view="${view}"]`).focus();
});

async function copy(button) {
  one('.link input').select();
  try { await navigator.clipboard.writeText(one('.link input').value); } catch { document.execCommand('copy'); }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}

new ResizeObserver(paint).observe(one('.plane'));
new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ['class'] });
watch('value', draw);
watch(SHOWN, filter);
watch(CHOSEN, mine);
draw();
