// What the page says: errors, steps, sizes and times in plain words.

const TITLES = {
  ImageError: "This file cannot be used as an image.",
  InputError: "This network cannot take it.",
  RangeError: "This image is unlike all that the network knows.",
  UnreachableError: "The server does not answer.",
  TokenError: "The server does not let us in.",
  LimitError: "The server has had enough of us for now.",
  NotFoundError: "The server does not have it any more.",
  JobError: "That cannot be done now.",
  UntrustedServerError: "This is not the server that it was before.",
  NotEnoughMemoryError: "There is not enough memory.",
  StorageError: "There is no room on a disk.",
  KeyStoreError: "The keys cannot be used.",
  BackendError: "The server could not compute it.",
  WorkerLostError: "The server could not compute it.",
  CorruptArtifactError: "Something arrived damaged.",
  MismatchError: "Keys, plan or versions do not fit together.",
  PageGone: "The program behind this page has ended.",
};

export function problem(error) {
  return { title: TITLES[error.kind] ?? "That did not work.", text: sentence(error.message) };
}

export function sentence(text) {
  const line = text.trim();
  const upper = /^[a-z]+ /.test(line) ? line.charAt(0).toUpperCase() + line.slice(1) : line; // no names of files
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  let number = bytes;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)}\u00a0${units[unit]}`;
}

export function seconds(number) {
  if (number < 0.05) return "<\u00a00.1\u00a0s";
  if (number < 99.5) return `${number.toFixed(number < 9.95 ? 1 : 0)}\u00a0s`;
  return `${Math.round(number / 60)}\u00a0min`;
}

export function left(number) {
  if (number < 1.5) return "a moment left";
  return number < 90 ? `about ${Math.round(number)}\u00a0s left` : `about ${Math.round(number / 60)}\u00a0min left`;
}

export function percent(part) {
  const whole = part < 0.0005 || part >= 0.9995;
  return `${(100 * part).toFixed(whole ? 0 : 1)}\u00a0%`;
}

export const NAMES = {
  keys: "Keys",
  encrypt: "Encrypt",
  upload: "Upload",
  queue: "Queue",
  layers: "Layers",
  result: "Result",
  decrypt: "Decrypt",
};

const FEW = 10;

// What is to be known of a network before it is asked.
export function about(model, takes) {
  const says = model.description ? [sentence(model.description)] : [];
  if (!takes.image) {
    says.push(`It takes ${takes.shape.join(" × ")} numbers and no image, and this page has images alone.`);
    return [...says, `Ask it on the command line: \`${takes.command}\`.`].join(" ");
  }
  const numbered = takes.classes.every((name, index) => name === String(index));
  if (takes.classes.length && numbered) says.push(`Tells ${takes.classes.length} classes apart.`);
  else if (takes.classes.length) {
    const others = takes.classes.length - FEW;
    const names = takes.classes.slice(0, FEW).join(", ");
    says.push(others > 0 ? `Tells apart ${names} and ${others} more.` : `Tells apart ${names}.`);
  }
  if (model.accuracy !== null) says.push(`Right for ${percent(model.accuracy)} of test images, says its owner.`);
  const keys = Math.min(...Object.values(model.key_bytes));
  says.push(`The first time, keys are made and ${size(keys)} of them uploaded.`);
  return says.join(" ");
}

export const stepName = (step) => NAMES[step.name] ?? step.name;

const BEFORE = {
  keys: "made once, the secret one stays here",
  encrypt: "here, with your secret key",
  upload: "only the encrypted image",
  queue: "until the server is free",
  layers: "by the server, on encrypted numbers",
  result: "fetched, still encrypted",
  decrypt: "here, with your secret key",
};

export function stepNote(step, run) {
  const now = step.state === "now";
  switch (step.name) {
    case "keys":
      if (now && step.doing === "make") return `being made on this machine, ${Math.round(100 * step.part)}\u00a0%`;
      if (now && step.doing === "upload") return `the server’s part is uploaded, ${Math.round(100 * step.part)}\u00a0% of ${size(step.bytes)}`;
      return step.state === "done" ? (step.doing ? "made now, the secret one stays here" : "are there") : BEFORE.keys;
    case "upload":
      return run.sent ? `${size(run.sent.bytes)}, encrypted` : BEFORE.upload;
    case "queue":
      return now && step.position > 1 ? `${step.position - 1} before you` : now ? "you are next" : BEFORE.queue;
    case "layers":
      if (now && step.left !== null && step.left !== undefined) return left(step.left);
      return step.state === "done" && step.layers ? `all ${step.layers}, on encrypted numbers` : BEFORE.layers;
    default:
      return BEFORE[step.name] ?? "";
  }
}
