"""The live side of a checkpoint: one epoch after the other of a network, its averaged copy and its optimiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fheinfer.data.labelled import DataSet
from fheinfer.errors import UsageError
from fheinfer.model.graph import Graph
from fheinfer.model.model import Model
from fheinfer.train import smartpaf
from fheinfer.train.augment import batches
from fheinfer.train.calibrate import IMAGES
from fheinfer.train.checkpoint import Checkpoint
from fheinfer.train.evaluate import MOST, accuracy, measure, recalibrate
from fheinfer.train.module import NORMS, GraphModule, from_model
from fheinfer.train.observer import TrainingObserver, TrainingProgress, measuring
from fheinfer.train.penalty import LIMIT, excess, without_runaways
from fheinfer.train.prune import Diagonals
from fheinfer.train.recipe import Recipe


class Run:
    """The live side of a checkpoint: module, averaged copy and optimiser."""

    def __init__(
        self,
        state: Checkpoint,
        graph: Graph,
        fitting: DataSet,
        held_out: DataSet,
        observer: TrainingObserver,
        teacher: Model | None = None,
        fused: bool = False,
        start: Model | None = None,
    ) -> None:
        self.state, self.graph, self.fitting, self.held_out = state, graph, fitting, held_out
        self.observer = observer
        recipe = state.recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.module, self.average = (self._module() for _ in range(2))
        smartpaf.check(self.module, recipe)
        self._make_noise(max(math.prod(shape) for shape in graph.shapes.values()))
        self.diagonals = Diagonals(graph) if recipe.prune else None
        self.masks: dict[str, Tensor] = {}
        if start:
            _begin(self.module, start)
        self.optimizer = torch.optim.SGD(
            self.module.parameters(),
            lr=recipe.peak_lr,
            momentum=recipe.momentum,
            weight_decay=recipe.decay,
            nesterov=recipe.momentum > 0,
        )
        self.fused = fused
        self.forward = torch.compile(self._forward) if fused else self._forward
        self.teacher = Teacher(teacher, recipe, self.device, fused) if teacher else None
        self.average.load_state_dict(state.average or self.module.state_dict())
        if state.model:
            self.module.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)

    def _module(self) -> GraphModule:
        module = GraphModule(self.graph, self.state.recipe.bits).to(self.device)
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def epoch(self) -> None:
        """Makes one pass over the fitting images, then the held-out accuracy; brings `state` up to date.

        Raises:
            UsageError: the loss or a weight stopped being a number; `state` is left as it was.
        """
        state, recipe = self.state, self.state.recipe
        self._prepare(state.epoch)
        per_epoch = max(1, len(self.fitting) // recipe.batch)
        loss, total = math.nan, 0.0
        for step, (x, labels) in enumerate(batches(self.fitting, recipe, state.epoch, self.device)):
            loss = self._step(x, labels, state.epoch * per_epoch + step, recipe.epochs * per_epoch)
            total += loss
            self.observer(TrainingProgress(state.epoch, recipe.epochs, step + 1, per_epoch, loss))
        if not all(bool(t.isfinite().all()) for t in self.module.state_dict().values()):
            raise self._diverged()
        progress = measuring(self.observer, state.epoch, recipe.epochs)(f"held-out {self.held_out.noun}")
        held_out = accuracy(self.average, self.held_out, recipe.mean, recipe.std, MOST, progress)
        state.epoch += 1
        state.curve.append((total / per_epoch, held_out))
        state.model, state.average = _copy(self.module), _copy(self.average)
        state.optimizer = self.optimizer.state_dict()
        if held_out >= state.best_accuracy and recipe.deployable(state.epoch - 1):
            state.best, state.best_epoch, state.best_accuracy = state.average, state.epoch, held_out
        self.observer(TrainingProgress(state.epoch - 1, recipe.epochs, per_epoch, per_epoch, loss, held_out))

    def _prepare(self, epoch: int) -> None:
        """What changes from epoch to epoch; all of it follows from the recipe and the state, so runs can be resumed."""
        recipe, settling = self.state.recipe, epoch - (self.state.recipe.epochs - self.state.recipe.settle)
        progress = measuring(self.observer, epoch, recipe.epochs)
        for module in (self.module, self.average):
            smartpaf.follow_batches(module, recipe.dynamic and settling <= 0)
        if settling == 0 and recipe.settle:
            recalibrate(self.module, self.fitting, recipe, progress("statistics"), self.fused)
            if recipe.dynamic:
                both, few = (self.module, self.average), self.fitting.first(IMAGES)
                sizes = [
                    measure(module, few, recipe.mean, recipe.std, progress("scales"), self.fused)[1] for module in both
                ]
                for module in both:
                    smartpaf.settle_scales(module, sizes)
        self.module.train()
        if settling >= 0:
            for layer in self.module.modules():
                layer.train(not isinstance(layer, NORMS))
        if recipe.alternate:
            smartpaf.take_turns(self.module, epoch)
        if self.diagonals:
            self.masks = self.diagonals.masks(self.module, recipe.pruned(epoch))

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and how far the inputs of polynomial activations are outside their bound."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.state.recipe.bfloat16):
            bounds = self.module.bounds(self.state.recipe.bound)
            drop = without_runaways(bounds)
            values = self.module.forward_all(x, lambda name, value: self._disturbed(name, drop(name, value)))
        return values[self.module.graph.output.name].float(), excess(self.module.graph, values, bounds)

    def _disturbed(self, name: str, value: Tensor) -> Tensor:
        """With noise, where the recipe asks for it: what `evaluate.noisy_accuracy` adds."""
        if name not in self.noise_at:
            return value
        recipe = self.state.recipe
        size = value.detach().abs().clamp(max=LIMIT * recipe.bound).amax()
        normal = self.noise[self.noise_at[name] :][: value.numel()]
        if value.ndim == 4:
            normal = normal.view(value.shape[0], *value.shape[2:], value.shape[1]).permute(0, 3, 1, 2)
        return value + recipe.noise * size * normal.view_as(value)

    def _make_noise(self, most: int) -> None:
        """Normal numbers, drawn anew every step, of which each value takes a part of its own: drawing as many as there
        are values would take longer than everything else."""
        recipe = self.state.recipe
        noisy = [node for node in self.module.graph if recipe.noise and node.op.polynomial]
        names = dict.fromkeys(name for node in noisy for name in (node.inputs[0], node.name))
        self.noise_at = {name: 4099 * i for i, name in enumerate(names)}
        self.noise = torch.zeros(recipe.batch * most + 4099 * len(names) if names else 0, device=self.device)

    def _step(self, x: Tensor, labels: Tensor, step: int, steps: int) -> float:
        recipe = self.state.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr(step, steps)
        if recipe.progressive:
            for module in (self.module, self.average):
                smartpaf.replace_first(module, recipe.grown((step + 1) / steps))
        self.noise.normal_()
        logits, outside = self.forward(x)
        loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.smoothing)
        if self.teacher:
            loss = (1 - recipe.distill) * loss + recipe.distill * self.teacher.loss(logits, x)
        loss = loss + recipe.penalty * outside
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.optimizer.step()
        self._mask(self.module)
        # The average is young at first: follow quickly, then at the recipe's pace.
        weight = 1 - min(recipe.average, (step + 1) / (step + 10))
        equal = step - (steps - recipe.swa * steps // recipe.epochs)
        if equal >= 0:
            weight = 1 / (equal + 1)
        for mean, now in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
            mean.lerp_(now, weight)
        self._mask(self.average)
        return value

    @torch.no_grad()
    def _mask(self, module: GraphModule) -> None:
        for name, mask in self.masks.items():
            module.get_parameter(name).mul_(mask)

    def _diverged(self) -> UsageError:
        return UsageError(
            f"training diverged in epoch {self.state.epoch + 1}: the loss is not a number; try a lower "
            f"learning rate than {self.state.recipe.peak_lr} (the checkpoint before it is kept)"
        )


class Teacher:
    """A trained network whose logits another one learns; it may normalise its input in its own way."""

    def __init__(self, model: Model, recipe: Recipe, device: torch.device, fused: bool = False) -> None:
        self.recipe = recipe
        module = from_model(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = torch.compile(module) if fused else module
        per_channel = (1, -1, *[1] * (len(model.graph.input_shape) - 1))
        own, theirs = (
            [torch.tensor(v, device=device).view(per_channel) for v in (r.mean, r.std)] for r in (recipe, model)
        )
        self.scale, self.shift = own[1] / theirs[1], (own[0] - theirs[0]) / theirs[1]

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """Computes the Kullback-Leibler divergence from the teacher's softened logits on the same inputs, times T^2."""
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            wanted = self.module(x * self.scale + self.shift).float()
        t = self.recipe.temperature
        return (
            functional.kl_div(
                (logits / t).log_softmax(1), (wanted.clone() / t).log_softmax(1), log_target=True, reduction="batchmean"
            )
            * t
            * t
        )


def _begin(module: GraphModule, start: Model) -> None:
    wanted = module.state_dict()
    found = {
        name: torch.from_numpy(array.copy())
        for name, array in start.tensors.items()
        if name in wanted and wanted[name].shape == array.shape
    }
    if not found:
        raise UsageError(f"{module.graph.name} has no weights of the names and shapes of {start.name}'s")
    module.load_state_dict(wanted | found)


def _copy(module: GraphModule) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
