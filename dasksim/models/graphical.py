"""Graphs with repeated nodes: models of one, two and three levels, and a crossed design of item response theory."""

from typing import Any

from dasksim import simulators

__all__ = ["crossed_design_irt", "single_level", "three_level", "two_level"]

Draws = dict[str, Any]


def single_level() -> "simulators.Simulator":
    r"""Linear regression with a number of observations that differs between sub-batches.

    .. math::

        N \sim U\{5, \dots, 14\}, \quad \beta \sim N((2, 0), (3, 1)), \quad \sigma \sim \mathrm{Gamma}(1, 1), \quad
        x_i \sim N(0, 1), \quad y_i \sim N(\beta_0 + \beta_1 x_i, \sigma)

    Returns
    -------
    Simulator
        Batched, with the variables ``beta`` (2), ``sigma`` (1), ``x`` and ``y`` with dim ``observation`` of size at
        most 14, NaN beyond the context ``N``.

    References
    ----------
    The definition of BayesFlow 2.0.12 (``bayesflow.experimental.graphical_simulator``).

    Examples
    --------
    >>> dict(single_level().sample(8, seed=1).y.sizes)
    {'batch': 8, 'observation': 14, 'scalar': 1}
    """

    def sizes(rng: Any) -> Draws:
        return {"N": int(rng.integers(5, 15))}

    def prior(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        beta = rng.normal([2.0, 0.0], [3.0, 1.0], size=(*batch_shape, 2))
        return {"beta": beta, "sigma": rng.gamma(1.0, 1.0, size=batch_shape)}

    def likelihood(batch_shape: tuple[int, ...], beta: Any, sigma: Any, rng: Any) -> Draws:
        x = rng.normal(size=batch_shape)
        return {"x": x, "y": rng.normal(beta[..., 0] + beta[..., 1] * x, sigma)}

    graph = simulators.GraphicalSimulator(sizes, max_sizes={"observation": 14})
    graph.add_node("prior", prior, is_batched=True)
    graph.add_node("observation", likelihood, reps="N", is_batched=True)
    graph.add_edge("prior", "observation")
    return graph


def two_level(repeated_roots: bool = False) -> "simulators.Simulator":
    r"""Hierarchical normal model: groups have means of their own, and one standard deviation.

    .. math::

        \mu, \tau \sim N(0, 1), |N(0, 1)|, \quad \mu_j \sim N(\mu, \tau), \quad \sigma \sim |N(0, 1)|, \quad
        y_{ji} \sim N(\mu_j, \sigma)

    Parameters
    ----------
    repeated_roots
        Whether there are five draws of the hyperparameters instead of one.

    Returns
    -------
    Simulator
        Batched, with the variables ``hyper_mean``, ``hyper_std``, ``shared_std``, ``local_mean`` (6) and ``y`` (6, 10),
        each with a last dim of size 1, and with dim ``hypers`` of size 5 if roots are repeated.

    References
    ----------
    The definition of BayesFlow 2.0.12 (``bayesflow.experimental.graphical_simulator``).

    Examples
    --------
    >>> two_level().sample(8, seed=1).y.dims
    ('batch', 'locals', 'observation', 'scalar')
    """

    def hypers(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {"hyper_mean": rng.normal(size=batch_shape), "hyper_std": abs(rng.normal(size=batch_shape))}

    def local(batch_shape: tuple[int, ...], hyper_mean: Any, hyper_std: Any, rng: Any) -> Draws:
        return {"local_mean": rng.normal(hyper_mean, hyper_std, size=batch_shape)}

    def shared(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {"shared_std": abs(rng.normal(size=batch_shape))}

    def observe(batch_shape: tuple[int, ...], local_mean: Any, shared_std: Any, rng: Any) -> Draws:
        return {"y": rng.normal(local_mean, shared_std, size=batch_shape)}

    graph = simulators.GraphicalSimulator()
    graph.add_node("hypers", hypers, reps=5 if repeated_roots else 1, is_batched=True)
    graph.add_node("locals", local, reps=6, is_batched=True)
    graph.add_node("shared", shared, is_batched=True)
    graph.add_node("observation", observe, reps=10, is_batched=True)
    for parent, child in (("hypers", "locals"), ("locals", "observation"), ("shared", "observation")):
        graph.add_edge(parent, child)
    return graph


def three_level() -> "simulators.Simulator":
    r"""Scores of students in classrooms of schools, with numbers that differ between sub-batches.

    .. math::

        \mu_{\text{classroom}} \sim N(\mu_{\text{school}}, \sigma_{\text{school}}), \quad
        \mu_{\text{student}} \sim N(\mu_{\text{classroom}}, \sigma_{\text{classroom}}), \quad
        \mu_{\text{score}} \sim N(\mu_{\text{student}}, \sigma_{\text{student}}), \quad
        \sigma_{\text{score}} \sim |N(0, \sigma_{\text{shared}})|, \quad
        y \sim N(\mu_{\text{score}}, \sigma_{\text{score}})

    with :math:`\mu_{\text{school}} \sim N(0, 1)`, all other standard deviations :math:`\sim |N(0, 1)|`, 5 to 9
    classrooms, 5 to 9 students and 10 to 19 scores.

    Returns
    -------
    Simulator
        Batched; ``y`` has the dims ``classrooms``, ``students`` and ``scores`` of sizes 9, 9 and 19, NaN beyond the
        contexts ``N_classrooms``, ``N_students`` and ``N_scores``.

    References
    ----------
    The definition of BayesFlow 2.0.12 (``bayesflow.experimental.graphical_simulator``).

    Examples
    --------
    >>> three_level().sample(8, seed=1).y.shape
    (8, 9, 9, 19, 1)
    """

    def sizes(rng: Any) -> Draws:
        n_classrooms, n_students = rng.integers(5, 10, size=2)
        return {
            "N_classrooms": int(n_classrooms),
            "N_students": int(n_students),
            "N_scores": int(rng.integers(10, 20)),
        }

    def schools(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {"school_mu": rng.normal(size=batch_shape), "school_sigma": abs(rng.normal(size=batch_shape))}

    def shared(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {"shared_sigma": abs(rng.normal(size=batch_shape))}

    def classrooms(batch_shape: tuple[int, ...], school_mu: Any, school_sigma: Any, rng: Any) -> Draws:
        mu = rng.normal(school_mu, school_sigma, size=batch_shape)
        return {"classroom_mu": mu, "classroom_sigma": abs(rng.normal(size=batch_shape))}

    def students(batch_shape: tuple[int, ...], classroom_mu: Any, classroom_sigma: Any, rng: Any) -> Draws:
        mu = rng.normal(classroom_mu, classroom_sigma, size=batch_shape)
        return {"student_mu": mu, "student_sigma": abs(rng.normal(size=batch_shape))}

    def scores(batch_shape: tuple[int, ...], student_mu: Any, student_sigma: Any, shared_sigma: Any, rng: Any) -> Draws:
        mu = rng.normal(student_mu, student_sigma, size=batch_shape)
        sigma = abs(rng.normal(0.0, shared_sigma, size=batch_shape))
        return {"y": rng.normal(mu, sigma)}

    graph = simulators.GraphicalSimulator(sizes, max_sizes={"classrooms": 9, "students": 9, "scores": 19})
    graph.add_node("schools", schools, is_batched=True)
    graph.add_node("shared", shared, is_batched=True)
    graph.add_node("classrooms", classrooms, reps="N_classrooms", is_batched=True)
    graph.add_node("students", students, reps="N_students", is_batched=True)
    graph.add_node("scores", scores, reps="N_scores", is_batched=True)
    edges = ("schools classrooms", "classrooms students", "students scores", "shared scores")
    for parent, child in map(str.split, edges):
        graph.add_edge(parent, child)
    return graph


def crossed_design_irt() -> "simulators.Simulator":
    r"""Item response theory: students answer questions, both of one school.

    .. math::

        d_q \sim N(m_q, s_q), \quad m_q \sim N(\mu_m, \sigma_m), \quad \log s_q \sim N(\mu_s, \sigma_s), \quad
        a_t \sim N(0, 1), \quad o_{qt} \sim \mathrm{Bernoulli}(\mathrm{logistic}(d_q + a_t))

    with :math:`\mu_m \sim N(1.1, 0.2)`, :math:`\sigma_m \sim |N(0, 1)|`, :math:`\mu_s \sim N(0.5, 0.3)`,
    :math:`\sigma_s \sim |N(0, 0.5)|`, 15 questions and 100 to 200 students.

    Returns
    -------
    Simulator
        Batched; ``obs`` is float64 with the dims ``questions`` (15) and ``students`` (200), NaN beyond the context
        ``num_students``.

    References
    ----------
    The definition of BayesFlow 2.0.12 (``bayesflow.experimental.graphical_simulator``).

    Examples
    --------
    >>> crossed_design_irt().sample(8, seed=1).obs.dims
    ('batch', 'questions', 'students', 'scalar')
    """

    def sizes(rng: Any) -> Draws:
        return {"num_questions": 15, "num_students": int(rng.integers(100, 201))}

    def schools(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {
            "mu_question_mean": rng.normal(1.1, 0.2, size=batch_shape),
            "sigma_question_mean": abs(rng.normal(0.0, 1.0, size=batch_shape)),
            "mu_question_std": rng.normal(0.5, 0.3, size=batch_shape),
            "sigma_question_std": abs(rng.normal(0.0, 0.5, size=batch_shape)),
        }

    def questions(
        batch_shape: tuple[int, ...],
        mu_question_mean: Any,
        sigma_question_mean: Any,
        mu_question_std: Any,
        sigma_question_std: Any,
        rng: Any,
        xp: Any,
    ) -> Draws:
        mean = rng.normal(mu_question_mean, sigma_question_mean, size=batch_shape)
        std = xp.exp(rng.normal(mu_question_std, sigma_question_std, size=batch_shape))
        return {"question_mean": mean, "question_std": std, "question_difficulty": rng.normal(mean, std)}

    def students(batch_shape: tuple[int, ...], rng: Any) -> Draws:
        return {"student_ability": rng.normal(size=batch_shape)}

    def observe(
        batch_shape: tuple[int, ...], question_difficulty: Any, student_ability: Any, rng: Any, xp: Any
    ) -> Draws:
        p = 0.5 + 0.5 * xp.tanh(0.5 * (question_difficulty + student_ability))  # logistic, without overflow
        # booleans could not be NaN beyond the number of students
        return {"obs": xp.asarray(rng.random(batch_shape) < p, dtype=xp.float64)}

    graph = simulators.GraphicalSimulator(sizes, max_sizes={"questions": 15, "students": 200})
    graph.add_node("schools", schools, is_batched=True)
    graph.add_node("questions", questions, reps="num_questions", is_batched=True)
    graph.add_node("students", students, reps="num_students", is_batched=True)
    graph.add_node("observations", observe, is_batched=True)
    edges = ("schools questions", "schools students", "questions observations", "students observations")
    for parent, child in map(str.split, edges):
        graph.add_edge(parent, child)
    return graph
