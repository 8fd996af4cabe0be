import pytest
import torch
from torch import nn

from midre_exp.threat import Threat, Victim
from midre_exp.worst_case.checks import check_target, liking, views_of

CLASSES = 4


class Straight(nn.Module):
    """Two layers without anything to hide; ``masked`` is what a defense makes of the logits."""

    def __init__(self, masked=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        self.masked = masked

    def forward(self, images):
        return self.masked(self.layers(images))


def checked(masked=lambda logits: logits):
    victim = Victim.of(Straight(masked), CLASSES)
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return check_target(victim, images, torch.arange(8) % CLASSES)


def rounded(logits):
    return nn.functional.one_hot(logits.argmax(1), CLASSES).float() + 0 * logits


def test_nothing_is_said_of_an_open_target():
    found = checked()
    assert found.zero_gradient_share == 0 and found.repeat_max_difference == 0
    assert not found.probabilities and found.pixels_share == 1


def test_rounded_answers_have_no_gradient_look_like_probabilities_and_resist_single_pixels():
    found = checked(rounded)
    assert found.zero_gradient_share == 1 and found.probabilities and found.pixels_share <= 0.5


def test_a_target_cut_off_from_its_images_is_told_apart_from_a_failure():
    assert checked(lambda logits: logits.detach()).zero_gradient_share == 1


def test_flattened_logits_have_gradients_and_never_convince():
    found = checked(lambda logits: logits / 1e6)
    assert found.zero_gradient_share == 0 and found.pixels_share == 0


def test_gradients_that_are_no_numbers_count_as_none():
    def broken(logits):
        return logits + (logits * 0).sqrt()  # infinite slope at zero, times zero

    assert checked(broken).zero_gradient_share == 1


def test_noisy_answers_are_seen():
    assert checked(lambda logits: logits + 0.1 * torch.randn_like(logits)).repeat_max_difference > 1e-2


def test_what_is_already_certain_has_nothing_to_climb():
    def certain(logits):
        return logits * 0 + torch.tensor([200.0, 0.0, 0.0, 0.0])

    victim = Victim.of(Straight(certain), CLASSES)
    found = check_target(victim, torch.rand(2, 3, 8, 8), torch.tensor([0, 0]))
    assert found.zero_gradient_share == 0


def test_liking_is_a_mean_over_the_same_views_whatever_the_order():
    victim = Victim.of(Straight(), CLASSES)
    images = torch.randint(
        0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    labels = torch.tensor([1, 0, 3])
    cpu = torch.device("cpu")
    found = liking(victim, images, labels, cpu)
    seen = torch.stack([victim(view).logits.double().softmax(1) for view in views_of(images.float() / 255)])
    assert len(seen) == 12
    assert found == pytest.approx(seen.mean(0)[torch.arange(3), labels].detach(), abs=1e-9)
    assert liking(victim, images.flip(0), labels.flip(0), cpu).flip(0) == pytest.approx(found, abs=1e-7)


def test_what_answers_at_deployment_is_asked_again_too():
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels, network = torch.arange(8) % CLASSES, Straight()

    def differing(answer):
        deployed = Victim.of(network, CLASSES, Threat.SCORES, answer)
        return check_target(Victim.of(network, CLASSES), images, labels, deployed).repeat_max_difference

    assert differing(lambda probabilities, images: probabilities.round(decimals=1)) == 0
    assert differing(lambda probabilities, images: (probabilities + torch.rand(8, CLASSES)) / 2) > 1e-2
