// Runs once per view. `element`, `props` and `watch` come from Gradio.
const made = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const row = (kind, ...cells) => made('tr', {}, ...cells.map((cell, i) => made(kind === 'th' || i === 0 ? 'th' : 'td', { scope: kind === 'th' ? 'col' : i === 0 ? 'row' : null }, cell)));
const table = (label, head, rows) => made('div', { class: 'wide', tabindex: '0', role: 'region', 'aria-label': label },
  made('table', {}, made('thead', {}, row('th', ...head)), made('tbody', {}, ...rows)));

function score(value) {
  if (value === null) return '–';
  const bar = made('span', { class: 'bar', 'aria-hidden': 'true' }, made('i', { style: `width:${100 * value}%` }));
  return made('span', {}, value.toFixed(2), bar);
}

function probes({ names, rows }) {
  if (!rows.length) return [];
  const lines = rows.map(({ title, own, values }) => {
    const line = row('td', title, ...values.map(score));
    if (own) line.className = 'own';
    return line;
  });
  return [made('h3', {}, 'What can be read off it'),
    made('p', {}, 'Balanced accuracy of the same linear probe on held-out recordings, from the features and from what they have to beat. 1 is perfect.'),
    table('Probes', ['read from', ...names.map(upper)], lines)];
}

function control(rows) {
  if (!rows.length) return [];
  const beside = rows.some((line) => line.latents), notes = rows.some((line) => line.acts_hits);
  const head = ['asked for', 'reached, SAE features', ...(notes ? ['within 50 cents'] : []), ...(beside ? ['reached, raw latents'] : []), ...(beside && notes ? ['within 50 cents'] : [])];
  const lines = rows.map((line) => row('td', upper(line.asked), line.acts ?? '–', ...(notes ? [line.acts_hits || '–'] : []),
    ...(beside ? [line.latents ?? '–'] : []), ...(beside && notes ? [line.latents_hits || '–'] : [])));
  return [made('h3', {}, 'What its controls do to the sound'),
    made('p', {}, 'Medians over held-out recordings, measured on the decoded sound after correction.'), table('Control', head, lines)];
}

function snippet(title, text) {
  const button = made('button', { type: 'button', 'aria-label': `Copy: ${title}` }, 'Copy');
  return [made('h3', {}, title), made('div', { class: 'code' }, made('pre', { tabindex: '0' }, text), button)];
}

function draw() {
  const value = props.value, box = element.querySelector('.bundle');
  if (!value) { box.replaceChildren(); return; }
  const place = value.link ? made('p', {}, made('a', { href: value.link, target: '_blank', rel: 'noopener noreferrer' }, `on the Hub at ${(value.revision || 'main').slice(0, 12)}`)) : '';
  const figures = value.figures.map(({ title, png }) => made('figure', {},
    made('img', { src: `data:image/png;base64,${png}`, alt: `Figure: ${title}`, loading: 'lazy' }), made('figcaption', {}, upper(title))));
  box.replaceChildren(
    made('h2', {}, value.name), place,
    made('dl', {}, ...value.facts.map(([label, text]) => made('div', {}, made('dt', {}, label), made('dd', {}, text)))),
    ...probes(value.probes), ...control(value.control),
    ...snippet('In Python', value.code), ...snippet('On the command line', value.shell),
    ...(figures.length ? [made('h3', {}, 'Figures'), made('div', { class: 'figures' }, ...figures)] : []),
  );
}

element.addEventListener('click', async (event) => {
  const button = event.target.closest('.code button');
  if (!button) return;
  const text = button.parentNode.querySelector('pre').textContent;
  try { await navigator.clipboard.writeText(text); } catch { getSelection().selectAllChildren(button.parentNode.querySelector('pre')); document.execCommand('copy'); }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
});
watch('value', draw);
draw();
