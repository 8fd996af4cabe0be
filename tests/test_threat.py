from __future__ import annotations

import pytest
import torch
from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.targets import build_target
from midre_exp.threat import Threat, Victim


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_target("resnet18", num_classes=5, width=0.125, stem="small")


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def reachable(thing: object) -> list[object]:
    """Everything an attack can get at through attributes, at any depth."""
    seen: list[object] = []
    queue = [thing]
    while queue:
        current = queue.pop()
        if any(current is other for other in seen):
            continue
        seen.append(current)
        queue += list(getattr(current, "__dict__", {}).values())
        if isinstance(current, dict):
            queue += list(current.values())
        elif isinstance(current, (list, tuple)):
            queue += list(current)
    return seen


@pytest.mark.parametrize("threat", list(Threat))
def test_no_attribute_of_a_victim_leads_to_the_network(model, threat):
    found = reachable(Victim.of(model, 5, threat))
    assert not [thing for thing in found if isinstance(thing, (nn.Module, nn.Parameter))]


def test_a_white_box_victim_gives_logits_features_taps_and_image_gradients(model, images):
    victim = Victim.of(model, 5, Threat.WHITE_BOX)
    images.requires_grad_()
    output = victim(images, taps=("layer2",))
    assert torch.equal(output.logits, model(images).logits)
    assert output.taps["layer2"].shape[0] == 3
    (gradient,) = torch.autograd.grad(output.logits.sum(), images)
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())
    assert victim.queries == 3


@pytest.mark.parametrize(
    ("threat", "answers"),
    [
        (Threat.WHITE_BOX, set()),
        (Threat.SCORES, {"scores", "averaged", "copies"}),
        (Threat.LABELS, {"labels"}),
    ],
)
def test_a_victim_offers_its_threat_models_answers_and_no_other(model, threat, answers):
    victim = Victim.of(model, 5, threat)
    always = {"num_classes", "queries", "confidence", "check_answers", "of"}
    assert {name for name in dir(victim) if name[0] != "_"} == always | answers
    assert callable(victim) == (threat is Threat.WHITE_BOX)


@pytest.mark.parametrize("threat", [Threat.SCORES, Threat.LABELS])
def test_an_answer_of_a_limited_victim_is_one_bare_tensor(model, images, threat):
    victim = Victim.of(model.requires_grad_(), 5, threat)
    with torch.enable_grad():
        answer = getattr(victim, threat.value)(images.requires_grad_())
        agreement = victim.confidence(images, torch.arange(3))
    for given, shape in ((answer, (3, 5) if threat is Threat.SCORES else (3,)), (agreement, (3,))):
        assert type(given) is torch.Tensor and not given.requires_grad and given.grad_fn is None
        assert given.shape == shape and given.is_contiguous() and given.untyped_storage().nbytes() <= 8 * 15
    assert answer.is_floating_point() == (threat is Threat.SCORES)


def test_a_score_victim_gives_probabilities_and_no_graph(model, images):
    victim = Victim.of(model, 5, Threat.SCORES)
    scores = victim.scores(images.requires_grad_())
    assert not scores.requires_grad
    assert torch.allclose(scores.sum(1), torch.ones(3))
    assert not hasattr(victim, "labels") and not callable(victim)


def test_a_label_victim_gives_the_prediction_alone(model, images):
    victim = Victim.of(model, 5, Threat.LABELS)
    assert torch.equal(victim.labels(images), model(images).logits.argmax(1))
    assert not hasattr(victim, "scores") and not callable(victim)


def test_confidence_speaks_the_language_of_each_threat_model(model, images):
    labels = torch.tensor([0, 1, 2])
    probability = model.eval()(images).logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    for threat in (Threat.WHITE_BOX, Threat.SCORES):
        assert torch.allclose(Victim.of(model, 5, threat).confidence(images, labels), probability)
    assert set(Victim.of(model, 5, Threat.LABELS).confidence(images, labels).tolist()) <= {0.0, 1.0}


def test_every_image_is_one_query(model, images):
    victim = Victim.of(model, 5, Threat.SCORES)
    victim.scores(images)
    victim.confidence(images, torch.zeros(3, dtype=torch.int64))
    assert victim.queries == 6


def test_an_unknown_threat_model_is_refused(model):
    with pytest.raises(ConfigError, match="white_box, scores, labels"):
        Victim.of(model, 5, "psychic")


class Bare(nn.Module):
    """Somebody's own network: images to logits, nothing of this project."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


@pytest.mark.parametrize("threat", list(Threat))
def test_any_module_that_returns_logits_is_a_target(images, threat):
    network = Bare()
    victim = Victim.of(network, 5, threat)
    assert not [thing for thing in reachable(victim) if isinstance(thing, (nn.Module, nn.Parameter))]
    logits = network(images)
    answer = {
        Threat.WHITE_BOX: lambda: (victim(images).logits, logits),
        Threat.SCORES: lambda: (victim.scores(images), logits.softmax(1)),
        Threat.LABELS: lambda: (victim.labels(images), logits.argmax(1)),
    }
    assert torch.equal(*answer[threat]())
    assert victim.queries == 3
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())


def test_any_function_is_a_target_and_the_threat_model_may_be_a_word(images):
    victim = Victim.of(lambda shown: shown.mean((2, 3)), 3, "scores")
    assert torch.equal(victim.scores(images), images.mean((2, 3)).softmax(1))


def test_features_and_taps_of_logits_alone_are_refused_in_one_sentence(images):
    victim = Victim.of(Bare(), 5)
    with pytest.raises(
        ConfigError, match=r"needs the target's features, .* returns logits alone; let it return"
    ):
        _ = victim(images).features
    with pytest.raises(ConfigError, match=r"hidden activations \(layer2\) .* derive it from"):
        victim(images, taps=("layer2",))


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda images: images.mean((2, 3)), r"returned \[3, 3\]; it must return logits \[n, 5\]"),
        (lambda images: images, r"returned \[3, 3, 32, 32\]"),
        (lambda images: {"logits": images}, "returned dict; it must return logits"),
    ],
)
def test_what_is_no_classifier_of_so_many_classes_is_refused_in_one_sentence(images, network, got):
    with pytest.raises(ConfigError, match=got):
        Victim.of(network, 5)(images)
