// Runs once per list. `element`, `props`, `watch` and `trigger` come from Gradio.
const made = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};

function draw() {
  const found = props.value, box = element.querySelector('.hub-list');
  if (!found) { box.replaceChildren(); return; }
  if (!found.length) { box.replaceChildren(made('p', {}, 'The Hub has no bundle like that.')); return; }
  box.replaceChildren(...found.map(({ repo, revision, said }) => {
    const button = made('button', { type: 'button' }, made('b', {}, repo), made('span', {}, said));
    button.dataset.repo = repo;
    button.dataset.revision = revision;
    return button;
  }));
}

element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('pick', { repo: button.dataset.repo, revision: button.dataset.revision });
});
watch('value', draw);
draw();
