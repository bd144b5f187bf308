// Runs once per table. `element`, `props`, `watch` and `trigger` come from Gradio.
const one = (selector) => element.querySelector(selector);
const made = (tag, attributes = {}, text = '') => {
  const node = Object.assign(document.createElement(tag), { textContent: text });
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const COLUMNS = [
  ['Feature', 'Number of the feature', ''],
  ['Name', 'What it seems to stand for', ''],
  ['Evidence', 'Bits that its firing tells about the named property, over the corpus', ' bit'],
  ['Strength', 'Share of all activation in this sound', ' %'],
  ['Time', 'Share of this sound in which it fires', ' %'],
  ['Peak', 'Largest activation in this sound', ''],
];
const DIGITS = [0, 0, 2, 1, 1, 2];
// Gradio takes any quoted word of this file for the name of an event, and then cannot tell it from a property.
const [CHOSEN] = Object.keys({ chosen: 0 });
let sort = { column: 3, down: true };

function heads() {
  one('thead tr').replaceChildren(...COLUMNS.map(([title, hint], i) => {
    const head = made('th', { scope: 'col', title: hint });
    if (sort.column === i) head.setAttribute('aria-sort', sort.down ? 'descending' : 'ascending');
    head.append(made('button', { type: 'button', 'data-column': i }, title + (sort.column === i ? (sort.down ? ' ↓' : ' ↑') : '')));
    return head;
  }));
}

function row(values, strongest) {
  const chosen = values[0] === props.chosen;
  const line = made('tr', { 'data-feature': values[0], 'aria-selected': chosen });
  values.forEach((value, i) => {
    const text = value === null ? '–' : i === 1 ? value : `${value.toFixed(DIGITS[i])}${COLUMNS[i][2]}`;
    const cell = made('td', {}, i ? text : '');
    if (i === 0) cell.append(made('button', { type: 'button', 'aria-label': `Feature ${value}, ${values[1]}` }, text));
    if (i === 1 && values[2] === null) cell.className = 'vague';
    if (i === 3) { cell.className = 'bar'; cell.style.setProperty('--share', `${100 * value / strongest}%`); }
    line.append(cell);
  });
  return line;
}

function draw() {
  const all = props.value?.rows ?? [], wanted = one('input').value.trim().toLowerCase();
  const found = all.filter(([number, name]) => !wanted || String(number) === wanted || name.toLowerCase().includes(wanted));
  const order = (a, b) => (typeof a === 'string' ? a.localeCompare(b, undefined, { numeric: true }) : (a ?? -1) - (b ?? -1));
  found.sort((a, b) => (sort.down ? -1 : 1) * order(a[sort.column], b[sort.column]));
  const strongest = Math.max(...all.map((values) => values[3]), 1e-9);
  heads();
  one('tbody').replaceChildren(...found.map((values) => row(values, strongest)));
  one('.count').textContent = found.length === all.length ? `${all.length} fire` : `${found.length} of ${all.length}`;
}

element.addEventListener('click', (event) => {
  const head = event.target.closest('th button'), line = event.target.closest('tbody tr');
  if (head) {
    const column = +head.dataset.column;
    sort = { column, down: sort.column === column ? !sort.down : column > 1 };
    draw();
    one(`th button[data-column="${column}"]`).focus();
  } else if (line) trigger('pick', { feature: +line.dataset.feature });
});
element.addEventListener('input', draw);
watch('value', draw);
watch(CHOSEN, () => element.querySelectorAll('tbody tr').forEach((line) => {
  line.setAttribute('aria-selected', +line.dataset.feature === props.chosen);
}));
draw();
