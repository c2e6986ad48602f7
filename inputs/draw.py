"""Draws the example images in this folder: `python inputs/draw.py`.

They are our own drawings, made of ellipses, polygons and hair-thin strokes, so that the examples come with the
project and belong to nobody else. The script draws the same image every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 256
SCALE = 2  # everything is drawn larger and then reduced, which smooths the edges
Colour = tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """An image of SIZE x SIZE units that can be drawn on with soft, shaded and furry shapes."""

    def __init__(self, top: Colour, bottom: Colour, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        side = SIZE * SCALE
        mix = np.linspace(0, 1, side)[:, None, None]
        rows = (1 - mix) * np.array(top) + mix * np.array(bottom)
        self.image = Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8))

    def shape(self, draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> Image.Image:
        """A mask of what `draw` fills with 255."""
        mask = Image.new("L", self.image.size, 0)
        draw(ImageDraw.Draw(mask))
        return mask.filter(ImageFilter.GaussianBlur(blur * SCALE)) if blur else mask

    def ellipse(self, centre: Point, radii: Point, turn: float = 0.0, blur: float = 0.0) -> Image.Image:
        """`turn` in degrees, clockwise."""
        angle = math.radians(turn)
        points = []
        for step in range(90):
            t = step * math.tau / 90
            x, y = radii[0] * math.cos(t), radii[1] * math.sin(t)
            points.append(
                (
                    centre[0] + x * math.cos(angle) - y * math.sin(angle),
                    centre[1] + x * math.sin(angle) + y * math.cos(angle),
                )
            )
        return self.polygon(points, blur)

    def polygon(self, points: Sequence[Point], blur: float = 0.0) -> Image.Image:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        return self.shape(lambda d: d.polygon(scaled, fill=255), blur)

    def fill(self, mask: Image.Image, colour: Colour, strength: float = 1.0) -> None:
        faded = mask.point(lambda v: int(v * strength))
        self.image.paste(Image.new("RGB", self.image.size, colour), mask=faded)

    def shade(self, mask: Image.Image, light: Point, radius: float, strength: float) -> None:
        """Darkens `mask` away from the point `light`, as a lamp there would leave it."""
        y, x = np.mgrid[: self.image.height, : self.image.width] / SCALE
        far = np.clip(np.hypot(x - light[0], y - light[1]) / radius, 0, 1) ** 2
        shadow = Image.fromarray((255 * strength * far).astype(np.uint8))
        self.fill(ImageChops.multiply(mask, shadow), (0, 0, 0))

    def fur(self, mask: Image.Image, root: Point, colours: Sequence[Colour], count: int, length: float = 9.0) -> None:
        """Strokes on `mask` that point away from `root`."""
        layer = self.image.copy()
        draw = ImageDraw.Draw(layer)
        for x, y, pick, bend in self.random.random((count, 4)):
            px, py = x * SIZE, y * SIZE
            angle = math.atan2(py - root[1], px - root[0]) + (bend - 0.5) * 0.9
            end = px + length * math.cos(angle), py + length * math.sin(angle)
            draw.line(
                [(px * SCALE, py * SCALE), (end[0] * SCALE, end[1] * SCALE)],
                fill=colours[int(pick * len(colours))],
                width=SCALE,
            )
        self.image.paste(layer, mask=mask)

    def blotches(
        self, colours: Sequence[Colour], count: int, size: float, blur: float, rows: Point = (0, SIZE)
    ) -> None:
        """Soft spots between two heights: grass, cloud, cloth."""
        for x, y, pick, scale in self.random.random((count, 4)):
            centre = (x * SIZE, rows[0] + y * (rows[1] - rows[0]))
            radii = (size * (0.5 + scale), size * (0.3 + 0.5 * scale))
            self.fill(self.ellipse(centre, radii, blur=blur), colours[int(pick * len(colours))], 0.6)

    def finished(self) -> Image.Image:
        return self.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def airplane() -> Image.Image:
    """An airliner climbing in front of a hazy sky."""
    c = Canvas((86, 140, 205), (186, 212, 236), seed=1)
    c.blotches([(240, 244, 250)], 9, 34, 16, rows=(150, 250))
    turn = -12.0
    body = c.ellipse((128, 132), (104, 15), turn)
    far_wing = c.polygon([(120, 126), (150, 120), (120, 72), (106, 74)])
    fin = c.polygon([(34, 148), (60, 142), (36, 96), (20, 98)])
    for part, colour in ((far_wing, (160, 168, 180)), (fin, (60, 84, 140)), (body, (236, 238, 242))):
        c.fill(part, colour)
    c.fill(ImageChops.multiply(body, c.ellipse((130, 144), (110, 9), turn, blur=3)), (120, 128, 142), 0.8)
    c.fill(c.polygon([(28, 154), (56, 148), (22, 166), (10, 166)]), (140, 148, 162))
    c.fill(c.polygon([(112, 138), (156, 128), (92, 206), (72, 208)]), (176, 183, 194))
    c.fill(c.polygon([(112, 138), (128, 134), (76, 207), (72, 208)]), (120, 128, 140))
    for x, y in ((120, 168), (100, 190)):
        c.fill(c.ellipse((x + 6, y), (12, 6), turn), (90, 96, 110))
    for step in range(16):
        c.fill(c.ellipse((66 + step * 9, 139 - step * 1.9), (1.8, 2.0)), (50, 60, 80))
    c.fill(c.polygon([(214, 110), (226, 109), (224, 104), (212, 106)]), (40, 50, 70))
    return c.finished()


def dog() -> Image.Image:
    """A brown dog with hanging ears, looking at us from a meadow."""
    c = Canvas((122, 150, 88), (82, 116, 52), seed=2)
    c.blotches([(60, 98, 40), (104, 140, 66), (140, 160, 92)], 60, 16, 7)
    chest = c.ellipse((128, 250), (84, 86), blur=2)
    c.fill(chest, (150, 98, 56))
    c.fur(chest, (128, 60), [(168, 112, 66), (128, 80, 44), (186, 134, 88)], 5000)
    c.fill(c.ellipse((128, 236), (32, 50), blur=7), (226, 206, 180))
    head = c.ellipse((128, 112), (66, 72), blur=1)
    c.fill(head, (176, 118, 66))
    c.fur(head, (128, 150), [(192, 134, 80), (160, 104, 56), (204, 150, 96)], 6000)
    c.shade(head, (116, 80), 120, 0.55)
    c.fill(ImageChops.multiply(head, c.ellipse((128, 72), (11, 44), blur=6)), (226, 200, 166), 0.8)
    for side in (-1, 1):
        ear = c.ellipse((128 + side * 66, 116), (24, 62), turn=-side * 12, blur=1)
        c.fill(ear, (92, 54, 28))
        c.fur(ear, (128 + side * 50, 40), [(106, 64, 34), (78, 44, 22), (122, 78, 46)], 5000)
    muzzle = c.ellipse((128, 154), (36, 34), blur=3)
    c.fill(muzzle, (222, 196, 162))
    c.fur(muzzle, (128, 140), [(230, 208, 178), (206, 178, 142)], 2500, 5)
    c.shade(muzzle, (122, 136), 70, 0.5)
    c.fill(c.ellipse((128, 189), (13, 17)), (206, 96, 104))
    c.fill(c.ellipse((128, 139), (17, 12), blur=0.5), (28, 22, 22))
    c.fill(c.ellipse((123, 135), (5, 3), blur=1), (130, 124, 124), 0.8)
    c.fill(c.polygon([(126, 150), (130, 150), (130, 172), (126, 172)], blur=0.5), (50, 34, 28))
    for side in (-1, 1):
        c.fill(c.ellipse((128 + side * 14, 174), (15, 4), turn=-side * 16, blur=0.7), (50, 34, 28))
        c.fill(c.ellipse((128 + side * 29, 98), (12, 11), blur=1), (70, 42, 24))
        c.fill(c.ellipse((128 + side * 29, 98), (8.5, 8.5)), (24, 16, 14))
        c.fill(c.ellipse((125 + side * 29, 95), (2.6, 2.6)), (240, 240, 240))
    return c.finished()


def cat() -> Image.Image:
    """A grey tabby on a warm blanket."""
    c = Canvas((190, 170, 150), (150, 120, 100), seed=3)
    c.blotches([(206, 186, 164), (170, 146, 126)], 40, 26, 12)
    fur = [(150, 142, 132), (122, 114, 106), (174, 166, 154)]
    body = c.ellipse((128, 256), (90, 84), blur=2)
    c.fill(body, (132, 124, 114))
    c.fur(body, (128, 90), fur, 6000)
    c.fill(c.ellipse((128, 236), (34, 44), blur=8), (224, 218, 210))
    head = c.ellipse((128, 134), (72, 60), blur=1)
    for side in (-1, 1):
        ear = c.polygon([(128 + side * 70, 120), (128 + side * 64, 34), (128 + side * 16, 84)], blur=1)
        c.fill(ear, (116, 108, 100))
        c.fur(ear, (128, 150), fur, 5000)
        c.fill(
            c.polygon([(128 + side * 62, 104), (128 + side * 58, 54), (128 + side * 30, 84)], blur=3), (206, 160, 150)
        )
    c.fill(head, (142, 134, 124))
    c.fur(head, (128, 150), fur, 8000)
    dark = (66, 58, 52)
    for x, turn in ((-24, -14), (-9, -5), (9, 5), (24, 14)):
        c.fill(c.ellipse((128 + x, 92), (4, 18), turn, blur=1.2), dark, 0.85)
    for side in (-1, 1):
        for y, turn in ((128, 6), (144, -6), (158, -18)):
            c.fill(c.ellipse((128 + side * 60, y), (14, 3.5), side * turn, blur=1.2), dark, 0.8)
    c.shade(head, (120, 110), 120, 0.5)
    muzzle = c.ellipse((128, 166), (32, 22), blur=4)
    c.fill(muzzle, (232, 226, 218))
    for side in (-1, 1):
        c.fill(c.ellipse((128 + side * 30, 126), (17, 14), turn=side * -12, blur=0.8), (44, 38, 34))
        c.fill(c.ellipse((128 + side * 30, 126), (14.5, 12), turn=side * -12), (186, 190, 84))
        c.fill(c.ellipse((128 + side * 30, 126), (5, 11.5)), (16, 14, 12))
        c.fill(c.ellipse((125 + side * 30, 121), (2.6, 2.6)), (250, 250, 250))
        c.fill(c.ellipse((128 + side * 9, 171), (9, 2.2), turn=-side * 20, blur=0.6), (90, 70, 66))
        for turn in (-10, 2, 14):
            c.fill(c.ellipse((128 + side * 62, 168 + turn * 0.8), (40, 0.7), side * turn), (240, 240, 240))
    c.fill(c.polygon([(118, 153), (138, 153), (128, 164)], blur=0.8), (196, 116, 112))
    return c.finished()


IMAGES: dict[str, Callable[[], Image.Image]] = {"airplane.png": airplane, "luis.png": cat, "vale.jpg": dog}


def main() -> int:
    folder = Path(__file__).resolve().parent
    for name, draw in IMAGES.items():
        draw().save(folder / name, quality=92, optimize=True)
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
