// Runs once. `props` and `trigger` come from Gradio, whose upload control listens on the same elements, after these.
const { of, most } = props.value;
const inside = (event, selector) => event.target instanceof Element && event.target.closest(`#${of} ${selector}`);
const video = (file) => file.type.startsWith('video/');

function take(event, files, hand) {
  const file = files && files[0];
  if (!file) return;
  if (video(file) || file.size > most) {
    event.preventDefault();
    event.stopImmediatePropagation();
    trigger('refuse', { name: file.name, size: file.size, video: video(file) });
    return false;
  }
  const sound = new DataTransfer();
  sound.items.add(file.type.startsWith('audio/') ? file : new File([file], file.name, { type: 'audio/unknown' }));
  hand(sound.files);
}

window.addEventListener('change', (event) => {
  if (!inside(event, 'input[type=file]')) return;
  const input = event.target;
  if (take(event, input.files, (files) => { if (files[0] !== input.files[0]) input.files = files; }) === false) input.value = '';
}, true);
window.addEventListener('drop', (event) => {
  const input = document.querySelector(`#${of} input[type=file]`);
  if (!input || !inside(event, '*')) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  take(event, event.dataTransfer.files, (files) => {
    input.files = files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
  });
}, true);
