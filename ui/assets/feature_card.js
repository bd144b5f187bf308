// Runs once per card. `element`, `props`, `server`, `watch` and `trigger` come from Gradio.
const one = (selector) => element.querySelector(selector);
const made = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const drawn = (tag, attributes) => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const VIEW = 'timeline';
const WAYS = { alone: 'Hear it alone', remove: 'Remove it', boost: 'Boost it ×3' };
const player = made('audio', { preload: 'none' });
let asked = 0;

function chart(title, heights, labels, ends, caption) {
  const svg = drawn('svg', { viewBox: `0 0 ${heights.length} 100`, preserveAspectRatio: 'none', role: 'img', 'aria-label': caption });
  heights.forEach((height, i) => {
    if (height > 0) svg.append(drawn('rect', { x: i + 0.08, width: 0.84, y: 100 - 100 * height, height: 100 * height }));
    const target = drawn('rect', { class: 'hover', x: i, width: 1, y: 0, height: 100 });
    target.append(Object.assign(drawn('title', {}), { textContent: labels[i] }));
    svg.append(target);
  });
  svg.append(drawn('line', { x1: 0, x2: heights.length, y1: 100, y2: 100 }));
  const figure = made('figure', {}, made('figcaption', {}, ...title), svg);
  figure.append(made('div', { class: 'ends' }, ...ends.map((text) => made('span', {}, text))));
  return figure;
}

function tuning({ title, classes, rate, bits }) {
  const most = Math.max(...rate.filter((value) => value !== null), 0);
  const labels = classes.map((name, i) => (rate[i] === null ? `${name}: not in the corpus` : `${name}: fires in ${(100 * rate[i]).toFixed(1)} %`));
  const best = classes[rate.indexOf(most)];
  const caption = `${title}: fires most at ${best}, in ${(100 * most).toFixed(0)} % of the time`;
  const note = made('span', { class: 'quiet' }, `${(100 * most).toFixed(most < 0.1 ? 1 : 0)} % at ${best}`);
  return chart([title, note], rate.map((value) => (most ? (value ?? 0) / most : 0)), labels, [classes[0], classes.at(-1)], caption);
}

function histogram({ counts, edges }) {
  const last = counts.findLastIndex((count) => count > 0), first = counts.findIndex((count) => count > 0);
  if (last < 0) return '';
  const shown = counts.slice(first, last + 1), most = Math.log1p(Math.max(...shown));
  const labels = shown.map((count, i) => `${edges[first + i].toPrecision(2)} to ${edges[first + i + 1].toPrecision(2)}: ${count} frames`);
  const ends = [edges[first].toPrecision(2), edges[last + 1].toPrecision(2)];
  const note = made('span', { class: 'quiet' }, 'of its firings, log scale');
  return chart(['Strength', note], shown.map((count) => Math.log1p(count) / most), labels, ends, 'Histogram of its activation, log counts');
}

const head = (text, note = '') => made('h3', {}, text, ' ', made('small', {}, note));
const chips = (...buttons) => made('div', { class: 'chips' }, ...buttons);
const quiet = (text) => made('span', { class: 'quiet' }, text);

function draw() {
  const card = props.value, box = one('.card');
  player.pause();
  asked += 1;
  if (!card) { box.replaceChildren(made('p', { class: 'quiet' }, 'Choose a feature to see what it stands for.')); return; }
  const fires = card.here && card.here.length > 0;
  const why = fires ? null : 'It does not fire in this sound';
  const elsewhere = card.here === null; // a card without a sound: it can be seen and heard in one on the other tab
  const see = made('button', { type: 'button', class: 'see', title: 'Open it in the Explore tab' }, 'See it in your sound →');
  const hear = Object.entries(WAYS).map(([way, text]) => made('button', { type: 'button', 'data-way': way, title: why, disabled: why && '' }, text));
  const actions = elsewhere ? [see] : card.audible ? hear : [];
  const steer = made('button', { type: 'button', class: 'steer', title: 'Take it to the Steer tab' }, 'Steer with it →');
  const facts = made('dl', {}, ...card.facts.map(([key, value]) => made('div', {}, made('dt', {}, key), made('dd', {}, value))));
  const here = (card.here ?? []).map(([time, value]) => made('button', { type: 'button', 'data-here': time, 'aria-label': `Play this sound from ${time} s, activation ${value}` },
    `▶ ${time.toFixed(2)} s`, quiet(value.toFixed(2))));
  const corpus = card.corpus.map(([recording, time, value]) => (card.playable
    ? made('button', { type: 'button', 'data-recording': recording, 'data-time': time, title: `${recording} at ${time} s`, 'aria-label': `Play ${recording} from ${time} s, activation ${value}` }, '▶ ', value.toFixed(2))
    : made('span', { class: 'quiet' }, `${recording}, ${time} s: ${value.toFixed(2)}`)));
  const near = card.neighbours.map(([feature, name, cosine]) => made('button', { type: 'button', 'data-feature': feature, 'aria-label': `Feature ${feature}, ${name}, cosine ${cosine}` },
    `${feature} ${name}`, quiet(cosine.toFixed(2))));
  box.replaceChildren(
    made('h2', {}, made('span', {}, String(card.feature)), card.name),
    made('p', {}, card.evidence),
    made('div', { class: 'actions' }, ...actions, ...(card.audible ? [steer] : [])),
    ...(card.audible ? [] : [quiet('This latent space cannot be decoded to sound: its features can be seen, not heard or steered.')]),
    ...(elsewhere ? [] : [
      head('Strongest moments in this sound', 'with the activation; plays from the peak'),
      fires ? chips(...here) : quiet('It does not fire in this sound.'),
    ]),
    head('Strongest moments in the corpus', card.playable ? 'synthesised again as you listen' : 'the recordings are not part of the bundle'),
    corpus.length ? chips(...corpus) : quiet('It never fired.'),
    made('p', { class: 'problem', role: 'status' }),
    head('What it responds to', 'share of the corpus in which it fires, by what was measured there'),
    made('div', { class: 'charts' }, ...card.tuning.map(tuning), histogram(card.histogram)),
    facts,
    head('Features that point the same way', 'cosine of the decoder directions'),
    chips(...near),
  );
}

async function play(button) {
  const mine = ++asked, { recording, time } = button.dataset;
  const problem = one('.problem');
  problem.textContent = 'synthesising …';
  let found;
  try { found = await server.moment({ recording, time: +time }); } catch { found = { error: 'it could not be synthesised just now' }; }
  if (mine !== asked) return;
  if (found.error) { problem.textContent = `${recording}: ${found.error}`; return; }
  problem.textContent = `${recording} (${found.timbre}) from ${time} s`;
  document.querySelectorAll('audio').forEach((other) => other.pause());
  URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(new Blob([Uint8Array.from(atob(found.wav), (c) => c.charCodeAt(0))], { type: 'audio/wav' }));
  player.play();
}

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || button.disabled) return;
  const { way, here, recording, feature } = button.dataset;
  if (way) trigger('hear', { way, feature: props.value.feature });
  else if (here) document.dispatchEvent(new CustomEvent('sae:seek', { detail: { to: VIEW, time: Math.max(0, here - 0.1), until: +here + 1.4, play: true } }));
  else if (recording) play(button);
  else if (feature) trigger('pick', { feature: +feature });
  else if (button.classList.contains('see')) trigger('explore', { feature: props.value.feature });
  else if (button.classList.contains('steer')) trigger('steer', { feature: props.value.feature });
});
element.append(player);
watch('value', draw);
draw();
