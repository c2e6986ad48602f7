// Draws a run: its steps, its answer, what the server saw. Text is only ever set as text.

import { percent, problem, seconds, sentence, size, stepName, stepNote } from "./words.js";

export const at = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

function text(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

// An error in a box of role alert, with a way to try again where there is one. Nothing where there is no error.
export function showProblem(box, error, again) {
  const words = error ? problem(error) : null;
  const key = words ? `${words.title} ${words.text}` : "";
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren();
  if (!words) return;
  box.append(element("p", { className: "title", textContent: words.title }), element("p", {}, ...prose(words.text)));
  if (again) {
    const button = element("button", { type: "button", className: "button small", textContent: "Try again" });
    button.addEventListener("click", again);
    box.append(button);
  }
}

// Text, with what stands between ` and ` as code.
export function prose(words) {
  return words.split("`").map((part, index) => (index % 2 ? element("code", { textContent: part }) : part));
}

// After these nothing is asked for by a button: the server would learn that its result was refused.
const QUIET = ["UntrustedServerError"];
const WAITING = "Nothing is lost: this goes on by itself when the server is back.";

export function showTrouble(box, run, again) {
  if (run?.state === "waiting") showProblem(box, { kind: "UnreachableError", message: WAITING });
  else if (run?.state === "stopped") showProblem(box, null);
  else showProblem(box, run?.error, QUIET.includes(run?.error?.kind) ? null : again);
  box.classList.toggle("waiting", run?.state === "waiting");
}

export function showSteps(list, run) {
  const all = run.steps.reduce((sum, step) => sum + step.seconds, 0);
  text(at("way-title"), run.state === "done" ? `On its way, ${seconds(all)} in all` : "On its way");
  if (list.children.length !== run.steps.length) {
    list.replaceChildren(...run.steps.map(() => stepRow()));
  }
  run.steps.forEach((step, index) => {
    const row = list.children[index];
    const waits = step.state === "now" && run.state === "waiting";
    row.className = waits ? "waits" : step.state;
    row.toggleAttribute("aria-current", step.state === "now");
    if (step.state === "now") row.setAttribute("aria-current", "step");
    const [, name, note, time, bar] = row.children;
    text(name.firstChild, stepName(step));
    text(name.lastChild, { done: ", done", now: waits ? ", waits" : ", now", todo: "" }[waits ? "now" : step.state]);
    text(note, stepNote(step, run));
    text(time, step.state === "todo" ? "" : seconds(step.seconds));
    show(bar, step.state === "now" && step.part !== null);
    if (step.part !== null) bar.value = step.part;
    bar.setAttribute("aria-label", stepName(step));
  });
}

function stepRow() {
  const bar = element("progress", { max: 1, hidden: true });
  const name = element("span", { className: "name" }, element("span"), element("span", { className: "away" }));
  return element(
    "li",
    {},
    element("span", { className: "dot", ariaHidden: "true" }),
    name,
    element("span", { className: "note" }),
    element("span", { className: "time" }),
    bar,
  );
}

export function showAnswers(box, run) {
  const key = JSON.stringify([run.id, run.answers, run.compare, run.state, run.note]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  if (!run.answers) {
    const words = run.state === "failed" || run.state === "stopped" ? "There is none." : "Appears here. The server never learns it.";
    box.replaceChildren(element("p", { className: "quiet", textContent: words }));
    return;
  }
  box.replaceChildren(...run.answers.flatMap((answer) => (answer.bars ? scores(answer, run) : values(answer))));
}

function scores(answer, run) {
  const best = answer.bars[0];
  const clear = "plain" in best;
  const head = element(
    "p",
    { className: "best" },
    element("strong", { textContent: best.class }),
    element("span", { textContent: percent(best.part) }),
  );
  const rows = answer.bars.map((bar) => scoreRow(bar, clear));
  const columns = ["Class", "Encrypted", ...(clear ? ["PyTorch, in clear"] : [])];
  const table = element(
    "table",
    { className: clear ? "bars two" : "bars" },
    element("caption", { className: "away", textContent: `Probabilities by class, ${answer.output}` }),
    element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col", textContent: name })))),
    element("tbody", {}, ...rows),
  );
  return [head, table, element("p", { className: "quiet", textContent: remark(answer, run, clear) })];
}

function scoreRow(bar, clear) {
  const line = (part, className) => {
    const fill = element("span", { className: `fill ${className}` });
    fill.style.setProperty("--part", part);
    return element("td", {}, element("span", { className: "track", ariaHidden: "true" }, fill), element("span", { className: "number", textContent: percent(part) }));
  };
  return element(
    "tr",
    {},
    element("th", { scope: "row", textContent: bar.class }),
    line(bar.part, "encrypted"),
    ...(clear ? [line(bar.plain, "clear")] : []),
  );
}

function remark(answer, run, clear) {
  const others = answer.others ? `${answer.others} other classes are less likely. ` : "";
  if (clear) return `${others}${answer.agrees ? "Both say the same." : "The two differ."} Only this machine knows either answer.`;
  if (run.note) return `${others}Nothing in clear to compare it with: ${sentence(run.note)} Only this machine knows this answer.`;
  return `${others}${run.compare && run.state === "running" ? "PyTorch is still computing. " : ""}Only this machine knows this answer.`;
}

function values(answer) {
  const shape = answer.shape.join(" × ");
  const range = answer.low === answer.high ? `${answer.low}` : `${answer.low} to ${answer.high}`;
  return [
    element("p", { className: "best" }, element("strong", { textContent: range })),
    element("p", { className: "quiet", textContent: `${answer.output}: ${shape} values. fheinfer infer --output FILE.npy writes all.` }),
  ];
}

export function showSent(run) {
  show(at("server-saw"), Boolean(run.sent));
  text(at("sent-size"), run.sent ? `${size(run.sent.bytes)} of noise, no image` : "noise, no image");
  if (!run.sent) return;
  text(at("saw-size"), `${size(run.sent.bytes)} (${run.sent.bytes.toLocaleString("en")} bytes)`);
  text(at("saw-bytes"), run.sent.hex);
}
