"""Terms and pulls: values, gradients, cutting into stacks, adding; and all forms train alike with them."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.clients import Clients
from raysim.core.terms import Pull, Term, correction, proximal
from raysim.runtime.coordinator import Coordinator
from tests.experiments import arrays, digits

C, P = 5, 7
y_CP, z_CP, b_CP = torch.randn(3, C, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
column = torch.rand(C, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

TERMS = {
    "number": (Term(0.3), lambda y: 0.15 * y.square().sum(1)),
    "column": (Term(column), lambda y: 0.5 * column[:, 0] * y.square().sum(1)),
    "linear": (correction(b_CP), lambda y: (b_CP * y).sum(1)),
    "one linear for all": (correction(b_CP[0]), lambda y: y @ b_CP[0]),
    "both": (Term(column, b_CP), lambda y: 0.5 * column[:, 0] * y.square().sum(1) + (b_CP * y).sum(1)),
    "nothing": (Term(), lambda y: 0 * y.sum(1)),
    "proximal": (
        proximal(0.7, z_CP),
        lambda y: 0.35 * (y - z_CP).square().sum(1) - 0.35 * z_CP.square().sum(1),
    ),
    "one centre": (
        proximal(0.7, z_CP[0]),
        lambda y: 0.35 * (y - z_CP[0]).square().sum(1) - 0.35 * z_CP[0].square().sum(),
    ),
    "sum": (
        proximal(0.7, z_CP[0]) + correction(b_CP) + Term(column),
        lambda y: (
            0.35 * ((y - z_CP[0]).square().sum(1) - z_CP[0].square().sum())
            + (b_CP * y).sum(1)
            + 0.5 * column[:, 0] * y.square().sum(1)
        ),
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_value_and_gradient(name):
    """The value is the formula's; the gradient is autograd's of the value."""
    term, formula = TERMS[name]
    y = y_CP.clone().requires_grad_()
    value_C = term.value(y)
    torch.testing.assert_close(value_C, formula(y))
    (expected,) = torch.autograd.grad(formula(y).sum(), y)
    grad = torch.ones(C, P, dtype=torch.float64)
    term.add_gradient(y_CP, grad)
    torch.testing.assert_close(grad - 1, expected)


@pytest.mark.parametrize("name", TERMS)
def test_rows_of_a_term(name):
    """Clients a..b-1 of a term say what the whole term says of them."""
    term = TERMS[name][0]
    for a, b in ((0, 2), (2, 5), (3, 4)):
        torch.testing.assert_close(term.rows(a, b).value(y_CP[a:b]), term.value(y_CP)[a:b])


def test_terms_add_up():
    many = [TERMS[n][0] for n in ("number", "column", "linear", "proximal", "one centre", "nothing")]
    for left in many:
        for right in many:
            torch.testing.assert_close((left + right).value(y_CP), left.value(y_CP) + right.value(y_CP))


@pytest.mark.parametrize("towards", [z_CP, z_CP[0]], ids=["rows", "one row"])
def test_pull(towards):
    pull, moved = Pull(0.3, towards), y_CP.clone()
    pull.apply(moved)
    torch.testing.assert_close(moved, y_CP - 0.3 * (y_CP - towards))
    part = y_CP[2:4].clone()
    pull.rows(2, 4).apply(part)
    assert torch.equal(part, moved[2:4])


def test_pull_on_rows_that_do_not_lie_side_by_side():
    wide = torch.zeros(C, P + 3)
    wide[:, :P] = y_CP
    Pull(0.3, z_CP.float()).apply(wide[:, :P])
    torch.testing.assert_close(wide[:, :P], (0.7 * y_CP + 0.3 * z_CP).float())
    assert (wide[:, P:] == 0).all()


# ---- the forms ---------------------------------------------------------------------------------------------------


def trained(cohort, x_P, kind):
    term, pull = extras(cohort, x_P, kind)
    return cohort.train(x_P, term=term, pull=pull)


def extras(cohort, x_P, kind):
    """A term or a pull whose rows differ from client to client."""
    own_CP = torch.from_numpy(1.0 + cohort.ids_C).float()[:, None] * torch.linspace(-0.02, 0.02, len(x_P))
    made = {
        "proximal": (proximal(0.5, x_P + 0.1), None),
        "correction": (correction(own_CP), None),
        "column": (Term(torch.from_numpy(0.1 * (1.0 + cohort.ids_C)).float()[:, None], own_CP), None),
        "pull": (None, Pull(0.2, own_CP)),
        "both": (proximal(0.5, own_CP), Pull(0.2, x_P)),
    }
    return made[kind]


OPTIMIZERS = {
    "SGD": rs.optimizers.SGD(lr=0.1),
    "momentum": rs.optimizers.SGD(lr=0.05, momentum=0.9),
    "Nesterov": rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True),
    "decay": rs.optimizers.SGD(lr=0.1, weight_decay=0.1),
    "momentum and decay": rs.optimizers.SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    "Adam": rs.optimizers.Adam(lr=0.01, eps=1e-3),  # 1e-8 would turn rounding of zero gradients into steps
}
KINDS = ["proximal", "correction", "column", "pull", "both"]


def played(form, optimizer, kind, **local):
    """Every client's model and loss after local training with a term: ragged clients, mini-batches."""
    fields = {"optimizer": optimizer, "epochs": 1, "batch_size": 8, "shuffle": False} | local
    sim = digits(
        data=arrays(n=150),
        partition=rs.partitions.Dirichlet(clients=7, alpha=0.5),
        cohort=None,
        local=rs.Local(**fields),
        execution=rs.Execution(form=form, block=4),
    )
    coordinator = Coordinator(sim, None)
    server = coordinator._prepare()
    clients = Clients(coordinator.fleet, coordinator._plan(0), coordinator.P)
    x_CP = clients.rows(trained, server.x_P, kind)
    return sim, server.x_P, clients.ids, x_CP, clients.reports["train_loss"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forms_train_alike(optimizer, kind):
    _, _, _, expected_CP, loss_C = played("loop", OPTIMIZERS[optimizer], kind)
    for form in ("stacked", "inplace"):
        _, _, _, x_CP, other_C = played(form, OPTIMIZERS[optimizer], kind)
        torch.testing.assert_close(x_CP, expected_CP, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(other_C), torch.from_numpy(loss_C), rtol=1e-4, atol=1e-6)


TORCH = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum and decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
}


class One:
    """A cohort of one client, for ``extras``."""

    def __init__(self, i):
        self.ids_C = np.array([i])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_equals_torch_on_loss_plus_term(optimizer, kind):
    """One client at a time: autograd through loss + term, torch's optimiser, the pull by its formula."""
    sim, x_P, ids, x_CP, _ = played(
        "inplace", OPTIMIZERS[optimizer], kind, epochs=None, steps=4, batch_size=None
    )
    data = sim.data.load()
    shares = sim.partition.split(data, sim.seed)
    for i, x in zip(ids.tolist()[:3], x_CP, strict=False):
        model = sim.initial_model()
        flat = torch.nn.utils.parameters_to_vector
        opt = TORCH[optimizer](model.parameters())
        inputs, labels = (torch.from_numpy(a[shares[i]]) for a in (data.x_train, data.y_train))
        term, pull = extras(One(i), x_P, kind)
        for _ in range(4):
            opt.zero_grad()
            y = flat(model.parameters()).unsqueeze(0)
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            if term is not None:
                linear = term.linear if term.linear is not None else torch.zeros_like(y)
                loss = loss + (0.5 * term.scale * y.square() + linear * y).sum()
            loss.backward()
            opt.step()
            if pull is not None:
                y = flat(model.parameters()).detach()
                y = (1 - pull.strength) * y + pull.strength * pull.towards.reshape(-1)
                torch.nn.utils.vector_to_parameters(y, model.parameters())
        torch.testing.assert_close(x, flat(model.parameters()).detach(), rtol=1e-4, atol=1e-5)
