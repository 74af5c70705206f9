// The page: loads the model of the folder in `?model=` (default: model/), and translates what is entered, or `?text=`.
import { Translator } from "./translator.js";

const options = new URLSearchParams(location.search);
const [form, source, target, button, status] = ["form", "#source", "#target", "button", "#status"].map((each) =>
  document.querySelector(each),
);

async function translate(translator) {
  button.disabled = true;
  try {
    const started = performance.now();
    const lines = [];
    for (const line of source.value.split("\n")) {
      lines.push(await translator.translate(line));
      target.textContent = lines.join("\n");
    }
    status.textContent = `Translated in ${Math.round(performance.now() - started)} ms`;
  } finally {
    button.disabled = false;
  }
}

try {
  const translator = await Translator.load(options.get("model") ?? "model");
  status.textContent = "Ready";
  button.disabled = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    translate(translator).catch(report);
  });
  if (options.has("text")) {
    source.value = options.get("text");
    await translate(translator);
  }
} catch (error) {
  report(error);
}

function report(error) {
  status.textContent = `Failed: ${error.message}`;
}
