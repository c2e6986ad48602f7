// The page: choose an image, follow it, keep a history. All requests go to the program that serves this page.

import { calm, original, shrink } from "./shrink.js";
import { at, element, prose, show, showAnswers, showProblem, showSent, showSteps, showTrouble } from "./view.js";
import { NAMES, about, left, percent, size, stepName } from "./words.js";

const FINAL = ["done", "failed", "stopped"];
const state = { page: null, run: null, received: 0, followed: 0, bitmap: null, said: "" };

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { kind: "PageGone", message: "start `fheinfer app` again in the terminal and open the address that it prints" };
  }
  if (response.status === 204) return null;
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    const answer = await response.json();
    if (response.ok) return answer;
    throw answer;
  }
  if (response.status >= 500) throw { kind: "Fault", message: "this is a fault of fheinfer, and its terminal says more; please report it" };
  throw { kind: "PageGone", message: "open the address that `fheinfer app` printed last" };
}

function say(words) {
  if (state.said === words) return;
  state.said = words;
  at("said").textContent = words;
}

// What there is to choose from.

async function load() {
  try {
    state.page = await ask("/api/page");
  } catch (error) {
    showProblem(at("problem"), error, load);
    return;
  }
  showProblem(at("problem"), null);
  const { server, models, examples } = state.page;
  at("server").textContent = server ? `server ${server}` : "server on this machine";
  at("model").replaceChildren(...models.map((model) => element("option", { value: model.name, textContent: model.name })));
  show(at("models"), models.length > 1);
  at("example-list").replaceChildren(...examples.map(exampleButton));
  show(at("examples"), examples.length > 0);
  await chosenModel();
}

function exampleButton(name) {
  const image = element("img", { src: `/api/examples/${encodeURIComponent(name)}`, alt: "", width: 72, height: 72 });
  const button = element("button", { type: "button" }, image, element("span", { textContent: name }));
  button.addEventListener("click", () => takeExample(name));
  return element("li", {}, button);
}

async function chosenModel() {
  const model = state.page.models.find((one) => one.name === at("model").value);
  if (!model) {
    showProblem(at("problem"), { kind: "NotFoundError", message: "the server has no network yet; its owner adds one with `fheinfer compile`" }, load);
    return;
  }
  try {
    const takes = await ask(`/api/models/${encodeURIComponent(model.name)}`);
    for (const id of ["drop", "examples"]) show(at(id), takes.image);
    show(at("comparison"), takes.image && takes.compare);
    at("takes").replaceChildren(...prose(about(model, takes)));
  } catch (error) {
    showProblem(at("problem"), error, load);
  }
}

// From an image to a run.

async function takeFile(file) {
  if (!file) return;
  if (state.page && file.size > state.page.limit) {
    refuse({ kind: "ImageError", message: `${file.name} has ${size(file.size)}, and ${size(state.page.limit)} is the most; make it smaller first` });
    return;
  }
  await begin(file, () => start({ name: file.name }, file), () => takeFile(file));
}

async function takeExample(name) {
  let image = null;
  try {
    image = await (await fetch(`/api/examples/${encodeURIComponent(name)}`)).blob();
  } catch {
    // the request below says what is wrong
  }
  await begin(image, () => start({ example: name }), () => takeExample(name));
}

function start(query, body) {
  const all = { ...query, model: at("model").value, compare: at("compare").checked && !at("comparison").hidden ? "1" : "0" };
  return ask(`/api/runs?${new URLSearchParams(all)}`, { method: "POST", body });
}

async function begin(image, request, again) {
  showProblem(at("problem"), null);
  let run;
  try {
    run = await request();
  } catch (error) {
    refuse(error, again);
    return;
  }
  state.bitmap = image ? await original(at("original"), image) : null;
  view(run, true);
  history();
  const top = at("stage").getBoundingClientRect().top;
  if (top < 0 || top > innerHeight / 2) at("stage").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

function refuse(error, again) {
  showProblem(at("problem"), error, ["ImageError", "InputError", "PageGone"].includes(error.kind) ? null : again);
}

async function again(run) {
  at("stage-title").focus();
  try {
    view(await ask(`/api/runs?again=${run.id}`, { method: "POST" }), run.id === state.run.id);
    history();
  } catch (error) {
    refuse(error, () => again(run));
  }
}

// A run on the stage.

function view(run, fresh) {
  if (!fresh) state.bitmap = null;
  show(at("yours"), Boolean(state.bitmap));
  at("sent").hidden = true;
  delete at("sent").dataset.run;
  draw(run);
  const seen = at("seen");
  const bitmap = state.bitmap;
  seen.alt = `${run.name} in ${run.width} by ${run.height} pixels`;
  seen.onload = () => shrink(at("shrinking"), fresh ? bitmap : null, seen);
  seen.src = `/api/runs/${run.id}/seen.png`;
  if (!FINAL.includes(run.state) && state.followed !== run.id) follow(run.id);
}

// Follows the run that goes on, which need not be the one that is looked at.
function follow(id) {
  state.followed = id;
  const events = new EventSource(`/api/runs/${id}/events`);
  events.onmessage = (message) => {
    const run = JSON.parse(message.data);
    if (run.id === state.run.id) draw(run);
    if (FINAL.includes(run.state)) {
      events.close();
      history();
    }
  };
  events.onerror = async () => {
    try {
      await ask(`/api/runs/${id}`);
    } catch (error) {
      events.close();
      refuse(error);
    }
  };
}

function draw(run) {
  state.run = run;
  state.received = performance.now();
  at("stage-title").textContent = run.name;
  at("stage").dataset.state = run.state;
  at("seen-size").textContent = `${run.width} × ${run.height} pixels`;
  show(at("stop"), !FINAL.includes(run.state));
  showTrouble(at("trouble"), run, () => again(run));
  showSteps(at("steps"), run);
  showAnswers(at("answers"), run);
  showSent(run);
  const sent = at("sent");
  if (run.sent && sent.dataset.run !== String(run.id)) {
    sent.dataset.run = run.id;
    sent.alt = "Noise: bytes of the encrypted image";
    sent.src = `/api/runs/${run.id}/sent.png`;
    sent.hidden = false;
  }
  tell(run);
}

function tell(run) {
  const now = run.steps.find((step) => step.state === "now");
  if (run.state === "done") {
    const best = run.answers?.[0]?.bars?.[0];
    say(best ? `The answer: ${best.class}, ${percent(best.part)}` : "The answer is there");
  } else if (run.state === "stopped") say("Stopped");
  else if (run.state === "running" && now) {
    const slow = now.name === "layers" && now.left > 5 ? `, ${left(10 * Math.ceil(now.left / 10))}` : "";
    say(`${stepName(now)}${slow}`);
  }
}

// Seconds go on between two events.
setInterval(() => {
  const { run, received } = state;
  if (!run || run.state !== "running") return;
  const passed = (performance.now() - received) / 1000;
  const steps = run.steps.map((step) =>
    step.state === "now" ? { ...step, seconds: step.seconds + passed, left: step.left == null ? step.left : Math.max(0, step.left - passed) } : step,
  );
  showSteps(at("steps"), { ...run, steps });
}, 250);

// The history.

async function history() {
  const runs = await ask("/api/runs").catch(() => []);
  show(at("history"), runs.length > 0);
  at("past").replaceChildren(...runs.map(pastRun));
  mark();
  return runs;
}

// Tells which of the history is looked at.
function mark() {
  for (const button of at("past").querySelectorAll("button")) {
    if (button.dataset.run === String(state.run?.id)) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function pastRun(run) {
  const best = run.answers?.[0]?.bars?.[0];
  const ended = run.answers ? "answered" : run.state;
  const words = best ? `${best.class}, ${percent(best.part)}` : FINAL.includes(run.state) ? ended : "on its way";
  const time = new Date(1000 * run.created).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const image = element("img", { src: `/api/runs/${run.id}/seen.png`, alt: "", width: 48, height: 48 });
  const button = element(
    "button",
    { type: "button" },
    image,
    element("span", { className: "what" }, element("b", { textContent: words }), element("span", { textContent: `${run.name}, ${time}` })),
  );
  button.dataset.run = run.id;
  button.addEventListener("click", async () => {
    view(await ask(`/api/runs/${run.id}`), false);
    mark();
  });
  return element("li", {}, button);
}

async function clear() {
  await ask("/api/runs", { method: "DELETE" });
  await history();
  at("choose").focus();
  say("The history is empty");
}

// Wiring.

at("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  await takeFile(file);
});
at("model").addEventListener("change", chosenModel);
at("clear").addEventListener("click", clear);
at("stop").addEventListener("click", async () => {
  at("stage-title").focus();
  await ask(`/api/runs/${state.run.id}/stop`, { method: "POST" });
});
document.addEventListener("paste", (event) => takeFile(event.clipboardData?.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  takeFile(event.dataTransfer?.files[0]);
});

const nothing = Object.keys(NAMES).map((name) => ({ name, state: "todo", seconds: 0, part: null }));
showSteps(at("steps"), { state: "", steps: nothing });
await load();
const going = (await history()).find((run) => !FINAL.includes(run.state));
if (going) view(going, false);
