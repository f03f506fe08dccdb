"""Classifier guidance: D = D_u + gamma (s^2 / a) grad_x log p(c | x_t, t) (Dhariwal and Nichol 2021).

gamma = 1 is Bayes' rule: with the exact classifier of noisy samples D is E[x_0 | x_t, c]. Larger gamma sharpens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from oneprior.denoiser import Denoiser, Wrapper
from oneprior.guidance.scale import Scale, check_scale
from oneprior.guidance.tweedie import each, gradient, informed
from oneprior.posterior import Posterior
from oneprior.times import Time, align


class ClassifierGuidance(Wrapper):
    """`inner` steered by a classifier of noisy samples; one backward pass of the classifier a call, none of `inner`.

    classifier: (x_t (B, *), t) -> log p(c | x_t), (B,), each sample by itself; t as the denoiser gets it, a float or
    (B,). scale: gamma, a number or (B,); 1 to 10 in use. The result is detached.

    Example:
        >>> log_p = lambda x, t: net(x, t).log_softmax(1)[torch.arange(len(x)), label]
        >>> x = sample(ClassifierGuidance(den, log_p, 2.0), (8, 1, 28, 28))

    Raises:
        ValueError: for a scale that is not finite, or a classifier that gives anything but (B,).
    """

    def __init__(self, inner: Denoiser, classifier: Callable[[Tensor, Any], Tensor], scale: Scale = 1.0) -> None:
        super().__init__(inner, density=False)
        self.classifier, self.scale = classifier, check_scale(scale)

    def posterior(self, x: Tensor, t: Time, **cond: Any) -> Posterior:
        post = self.inner(x, t, **cond)
        asked = informed(self.schedule, t)
        a, _, s = self.schedule.at(asked)
        _, grad = gradient(lambda at: each(self.classifier(at, asked), x, "the classifier"), x)
        return post.replace(post.mean + align(self.scale, x) * align(s * s / a, x) * grad)
