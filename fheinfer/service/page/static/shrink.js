// Draws the chosen image, and how it shrinks to what the network sees.

const SIDE = 320;
const FRAMES = 5;
export const calm = matchMedia("(prefers-reduced-motion: reduce)");

// The bitmap's centred square, as the network's cut is for square inputs, drawn on a canvas; null where no browser can.
export async function original(canvas, blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return null;
  }
  canvas.hidden = false;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, SIDE, SIDE);
  const scale = Math.min(SIDE / bitmap.width, SIDE / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  return bitmap;
}

let turn = 0;

// From smooth to the network's pixels in a second, unless another image comes. `exact` is the image as the network gets it,
// which ends it.
export async function shrink(canvas, bitmap, exact) {
  const mine = (turn += 1);
  exact.hidden = true;
  canvas.hidden = false;
  if (bitmap && !calm.matches) {
    const small = document.createElement("canvas");
    const steps = Array.from({ length: FRAMES }, (_, i) => i / FRAMES);
    for (const step of steps) {
      const [w, h] = [exact.naturalWidth, exact.naturalHeight].map((n) => Math.round(n * (SIDE / n) ** (1 - step)));
      draw(canvas, small, bitmap, w, h, exact.naturalWidth / exact.naturalHeight);
      await new Promise((done) => setTimeout(done, 180));
      if (turn !== mine) return;
    }
  }
  canvas.hidden = true;
  exact.hidden = false;
}

function draw(canvas, small, bitmap, width, height, proportion) {
  [small.width, small.height] = [width, height];
  const cut = Math.min(bitmap.width / proportion, bitmap.height);
  const [w, h] = [cut * proportion, cut];
  const first = small.getContext("2d");
  first.imageSmoothingQuality = "high";
  first.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, SIDE, SIDE);
  const scale = Math.min(SIDE / width, SIDE / height);
  context.drawImage(small, (SIDE - width * scale) / 2, (SIDE - height * scale) / 2, width * scale, height * scale);
}
