"""Time series and their forecasts: no window knows the future, baselines are what they say."""

import warnings
from datetime import date, timedelta

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.tasks.forecasting import forecasting, forecasts
from rnn_jax.tasks.time_series import Series, series, series_from_csv

PARTS = ("train", "validation", "test")


def complete(values, period=None, unit=""):
    values = np.asarray(values, float)
    return Series("made", values, np.ones(len(values), bool), np.arange(len(values)), unit, period)


def noise(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count)


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def with_gaps(tmp_path, values, missing):
    cells = ["NA" if gone else repr(float(y)) for y, gone in zip(values, missing, strict=True)]
    return series_from_csv(written(tmp_path, "\n".join(["value", *cells])))


def test_windows_and_targets_by_hand(tmp_path):
    count, window = 120, 7
    missing = np.random.default_rng(1).random(count) < 0.08
    missing[[0, -1]] = False
    made = with_gaps(tmp_path, noise(count).cumsum(), missing)
    problem, y = forecasting(made, window), made.values
    places = [t for t in range(1, count) if not missing[t] and not missing[t - 1]]
    ends = {"train": (window + 1, 84), "validation": (84, 102), "test": (102, 120)}
    scale = np.sqrt(np.mean([(y[t] - y[t - 1]) ** 2 for t in places if t < 84]))
    trained = [t for t in places if window < t < 84]
    seen = [y[t - k] - y[t - 1] for t in trained for k in range(1, window + 1)]
    spread = np.sqrt(np.mean(np.square(seen)))
    for part, (low, high) in ends.items():
        targets = [t for t in places if low <= t < high]
        inputs = np.zeros((len(targets), window, 2))
        for row, t in enumerate(targets):
            for step, k in enumerate(range(t - window, t)):
                inputs[row, step] = (y[k] - y[k - 1]) / scale, (y[k] - y[t - 1]) / spread
        example = getattr(problem, part)
        np.testing.assert_allclose(example.inputs, inputs, rtol=1e-6, atol=1e-6)
        wanted = [(y[t] - y[t - 1]) / scale for t in targets]
        np.testing.assert_allclose(example.target, wanted, rtol=1e-6)
        assert example.mask.all()
        assert example.mask.shape == (len(targets), window)


@pytest.mark.parametrize("changed", [105, 107, 130, 149])
def test_no_window_knows_its_target_or_what_comes_after(tmp_path, changed):
    """Nor does a line drawn through a gap tell of its far end."""
    values, missing = noise(150).cumsum(), np.zeros(150, bool)
    missing[[50, 103, 104, 126, 128, 129, 140, 148]] = True
    other = values.copy()
    other[changed] += 100
    before, after = (with_gaps(tmp_path, y, missing) for y in (values, other))
    one, two = forecasting(before, 5), forecasting(after, 5)
    jax.tree.map(np.testing.assert_array_equal, one.train, two.train)
    assert list(one.baselines) == list(two.baselines)  # with the orders
    for part, low, high in (("validation", 105, 127), ("test", 127, 150)):
        targets = [t for t in range(low, high) if not missing[t] and not missing[t - 1]]
        rows = [row for row, t in enumerate(targets) if t <= changed]
        first, second = (np.asarray(getattr(p, part).inputs)[rows] for p in (one, two))
        np.testing.assert_array_equal(first, second)


def test_the_future_fits_nothing():
    """What is fitted to the training part forecasts the same, whatever the rest holds."""
    values = noise(200).cumsum()
    other = values.copy()
    other[140:170] *= -5  # all of the validation, and no lag of the tests compared
    one, two = (forecasting(complete(y), 4) for y in (values, other))
    np.testing.assert_array_equal(one.test.inputs[5:], two.test.inputs[5:])
    np.testing.assert_array_equal(one.test.target[1:], two.test.target[1:])
    jax.tree.map(np.testing.assert_array_equal, one.train, two.train)


def test_level_and_unit_of_the_data_do_not_matter():
    values = noise(200).cumsum()
    one, two = forecasting(complete(values), 9), forecasting(complete(1e3 * values - 7e4), 9)
    for part in PARTS:
        first, second = getattr(one, part), getattr(two, part)
        np.testing.assert_allclose(first.inputs, second.inputs, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(first.target, second.target, rtol=1e-4, atol=1e-6)
    assert list(one.baselines) == list(two.baselines)
    for name, rmse in one.baselines.items():
        assert two.baselines[name] == pytest.approx(1e3 * rmse, rel=1e-6)


def score(problem, outputs):
    totals, weights = jax.vmap(problem.metric.measure)(outputs, problem.test)
    return problem.metric.finish(float(totals.sum() / weights.sum()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_metric_is_the_rmse_in_units_of_the_data(dtype):
    co2 = series("co2")
    problem = forecasting(co2, 3)
    outputs = jnp.asarray(noise(343)[:, None], dtype)
    shown = forecasts(co2, outputs)
    rmse = np.sqrt(np.mean((shown.forecast - shown.truth) ** 2))
    assert score(problem, outputs) == pytest.approx(rmse, rel=1e-5)
    np.testing.assert_array_equal(shown.truth, co2.values[-343:])
    np.testing.assert_array_equal(shown.times, co2.times[-343:])
    assert problem.metric.name == "RMSE (ppm)"
    one = jax.tree.map(lambda leaf: leaf[0], problem.test)
    assert problem.loss(outputs[0], one).dtype == dtype
    # What is said in units of the data: for a person, to four digits.
    said = problem.show(outputs[0], one)
    last = co2.values[-344]
    assert said["change"] == f"{co2.values[-343] - last:+.4g} ppm"
    assert said["forecast"] == f"{shown.forecast[0] - last:+.4g} ppm"


@pytest.mark.parametrize("name", ["sunspots", "co2"])
def test_to_answer_zero_is_persistence(name):
    problem = forecasting(series(name), 6)
    zeros = jnp.zeros((len(problem.test.target), 1))
    assert score(problem, zeros) == pytest.approx(problem.baselines["persistence"], rel=1e-5)
    zeros = jnp.zeros((len(problem.train.target), 1))
    loss = jax.vmap(problem.loss)(zeros, problem.train).mean()
    assert float(loss) == pytest.approx(problem.initial_loss, rel=1e-5)


def reference(values, fitted, most, places):
    """Order by AIC over the same equations, then least squares over all: forecasts at places."""

    def design(p, places):
        lags = [values[places - k] for k in range(1, p + 1)]
        return np.stack([np.ones(len(places)), *lags], axis=1)

    def fit(p, first):
        t = np.arange(first, fitted)
        coefficients, *_ = np.linalg.lstsq(design(p, t), values[t], rcond=None)
        residuals = values[t] - design(p, t) @ coefficients
        return coefficients, len(t) * np.log(np.mean(residuals**2)) + 2 * p

    order = min(range(most + 1), key=lambda p: fit(p, most)[1])
    return order, design(order, places) @ fit(order, order)[0]


@pytest.mark.parametrize(("name", "window"), [("sunspots", 12), ("co2", 10)])
def test_baselines_by_numpy(name, window):
    data = series(name)
    y, count = data.values, len(data.values)
    fitted, test = int(0.7 * count), np.arange(int(0.85 * count), count)
    assert data.known[test[0] - 1 :].all()
    assert data.known[fitted - 2 : fitted].all()

    def rmse(forecast):
        return np.sqrt(np.mean((y[test] - forecast) ** 2))

    order, values = reference(y, fitted, window + 1, test)
    order_of_changes, changes = reference(np.diff(y), fitted - 1, window, test - 1)
    expected = {
        "persistence": rmse(y[test - 1]),
        "seasonal naive": rmse(y[test - data.period]),
        f"AR({order})": rmse(values),
        f"ARIMA({order_of_changes},1,0)": rmse(y[test - 1] + changes),
    }
    problem = forecasting(data, window)
    assert problem.baselines == pytest.approx(expected, rel=1e-5)
    of_forecasts = {who: rmse(said) for who, said in problem.baseline_forecasts.items()}
    assert of_forecasts == pytest.approx(expected, rel=1e-5)


def test_measured_series_are_those_of_statsmodels():
    from statsmodels.datasets import co2

    data = co2.load_pandas().data["co2"]
    made = series("co2")
    np.testing.assert_allclose(made.values, data.interpolate("time"), rtol=1e-12)
    np.testing.assert_array_equal(made.known, data.notna())
    assert (~made.known).sum() == 59
    assert made.known[int(0.7 * len(data)) :].all()
    assert np.all(np.diff(made.times) == np.timedelta64(7, "D"))
    sunspots = series("sunspots")
    np.testing.assert_array_equal(sunspots.times, np.arange(1700, 2009))
    assert sunspots.values.max() == 190.2  # 1957
    with pytest.raises(ValueError, match="must be 'sunspots' or 'co2', got 'nile'"):
        series("nile")


def test_a_trend_leaves_the_training_range_but_inputs_do_not():
    co2 = series("co2")
    problem = forecasting(co2)
    assert co2.values[-343:].min() > co2.values[:1598].max()
    assert problem.train.inputs.shape[1:] == (53, 2)
    # Root mean squares: 1 in the training windows, for changes all but the first of them.
    np.testing.assert_allclose(np.sqrt(np.mean(problem.train.inputs**2, axis=(0, 1))), 1, rtol=0.02)
    np.testing.assert_allclose(np.sqrt(np.mean(problem.test.inputs**2, axis=(0, 1))), 1, rtol=0.2)


@pytest.mark.parametrize("window", [1, 5, 12])
def test_the_shortest_series(window):
    needed = 4 * window + 20
    with pytest.raises(ValueError, match=f"{needed - 1} values, expected at least {needed} for"):
        forecasting(complete(noise(needed - 1)), window)
    problem = forecasting(complete(noise(needed)), window)
    assert np.isfinite(list(problem.baselines.values())).all()
    assert min(len(getattr(problem, part).target) for part in PARTS) >= 3


@pytest.mark.parametrize(
    "values",
    [
        0.1 * np.arange(100),
        np.sin(np.arange(100)),
        np.arange(100) % 7,
        np.arange(100) > 0,  # does not change after the first step, which is in no window
        np.arange(100) >= 69,  # only the last training target changes
    ],
)
def test_series_without_noise_are_finite(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = forecasting(complete(values), 5)
    for part in PARTS:
        assert np.isfinite(getattr(problem, part).inputs).all()
    assert np.isfinite(list(problem.baselines.values())).all()


def test_autoregression_solves_a_sine_and_seasonal_naive_a_cycle():
    sine = forecasting(complete(np.sin(np.arange(200))), 5).baselines
    assert next(rmse for name, rmse in sine.items() if name.startswith("AR(")) < 1e-9
    cycle = forecasting(complete(np.arange(200) % 7, period=7)).baselines
    assert cycle["seasonal naive"] == 0 < cycle["persistence"]


def test_what_cannot_be_forecast_is_refused():
    with pytest.raises(ValueError, match=r"root mean square 0\.0 in its training part"):
        forecasting(complete(np.arange(100) >= 80), 5)
    with pytest.raises(ValueError, match=r"period of 'made' is 80, expected at most 70%"):
        forecasting(complete(noise(100), period=80), 5)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        forecasting(complete(noise(100)), 0)
    with pytest.raises(TypeError, match=r"window must be an integer, got 2\.5"):
        forecasting(complete(noise(100)), 2.5)
    gap = complete(noise(24))
    gap.known[[16, 18]] = False
    with pytest.raises(ValueError, match="no two values in succession in its validation part"):
        forecasting(gap, 1)
    with pytest.raises(ValueError, match=r"must be of shape \(15, 1\), got \(15,\)"):
        forecasts(complete(noise(100)), np.zeros(15))


@pytest.mark.parametrize(
    ("text", "options", "name", "values", "first_time"),
    [
        # The newest first, other text beside it.
        ("day,shop,n\n2024-03-02,A1,5\n2024-03-01,A2,4\n", {}, "n", [4, 5], "2024-03-01"),
        ("t;y\n31.1.2024;1,5\n1.2.2024;2,5\n", {}, "y", [1.5, 2.5], "2024-01-31"),
        ("1,5;7\n2,5;7\n", {"column": "1"}, "1", [1.5, 2.5], 1),
        ("3\n1\n2\n", {}, "1", [3, 1, 2], 1),
        ("y\tt\n3\t2001\n1\t1999\n", {"time": "t"}, "y", [1, 3], 1999),
        ("y,t\n3,0.5\n1,0.25\n", {"column": "y", "time": "t"}, "y", [1, 3], 0.25),
        ("t,y\n13/02/2024,1\n01/03/2024,2\n", {}, "y", [1, 2], "2024-02-13"),
        ("t,y\n02/13/2024,1\n03/01/2024,2\n", {}, "y", [1, 2], "2024-02-13"),
        ("t,y\n2024-02-13T01:00+02:00,1\n2024-02-12T23:30Z,2\n", {}, "y", [1, 2], "2024-02-12"),
        # Missing at both ends: dropped; in between: on a line in steps.
        ("y\nNA\n0\n" + "1\n" * 18 + "NaN\n3\nnull\n", {}, "y", [0, *[1] * 18, 2, 3], 2),
        ("y,\n1,a\n2,b\n", {"column": "y"}, "y", [1, 2], 1),
        ('\ufeff"y, in m"\r\n1\r\n2\r\n', {}, "y, in m", [1, 2], 1),
    ],
)
def test_tables(tmp_path, text, options, name, values, first_time):
    made = series_from_csv(written(tmp_path, text), unit="m", period=2, **options)
    assert made.name == name
    np.testing.assert_array_equal(made.values, values)
    first = made.times[0]
    assert (str(first)[:10] if made.times.dtype.kind == "M" else first) == first_time
    assert (made.unit, made.period) == ("m", 2)
    assert np.all(np.diff(made.times).astype(float) > 0)


@pytest.mark.parametrize(
    "form",
    [
        *("%d-%m-%Y", "%m-%d-%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%Y/%m/%d", "%Y%m%d"),
        *("%b %d %Y", "%B %d, %Y", "%d-%b-%Y", "%d %B %Y", "%d-%b-%y"),
        *("%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M", "%d/%m/%Y %I:%M %p", "%b %d, %Y %H:%M:%S"),
    ],
)
def test_dates_of_other_forms_with_the_newest_first(tmp_path, form):
    days = [date(2024, 11, 20) + timedelta(days=n) for n in range(30)]
    rows = [f'"{day.strftime(form)}",{n % 7}' for n, day in enumerate(days)]
    made = series_from_csv(written(tmp_path, "\n".join(["when,y", *rows[::-1]])), column="y")
    np.testing.assert_array_equal(made.values, np.arange(30) % 7)
    np.testing.assert_array_equal(made.times, np.array(days, "datetime64[s]"))


@pytest.mark.parametrize("form", ["%b %Y", "%B %Y", "%b-%y", "%m/%Y", "%Y%m", "%Y-%m"])
def test_months_with_the_newest_first(tmp_path, form):
    months = [date(2022 + n // 12, n % 12 + 1, 1) for n in range(30)]
    rows = [f"{month.strftime(form)},{n % 7}" for n, month in enumerate(months)]
    made = series_from_csv(written(tmp_path, "\n".join(["when,y", *rows[::-1]])), column="y")
    np.testing.assert_array_equal(made.values, np.arange(30) % 7)
    np.testing.assert_array_equal(made.times, np.array(months, "datetime64[s]"))


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("Year,sales", {}),
        ("TIMESTAMP,sales", {}),
        ("n,sales", {"column": "sales"}),  # which falls from row to row
    ],
)
def test_times_that_are_numbers(tmp_path, header, options):
    rows = [f"{2020 - n},{n % 3}" for n in range(9)]
    made = series_from_csv(written(tmp_path, "\n".join([header, *rows])), **options)
    assert made.name == "sales"
    np.testing.assert_array_equal(made.times, np.arange(2012, 2021))
    np.testing.assert_array_equal(made.values, np.arange(8, -1, -1) % 3)


def test_numbers_that_do_not_step_are_no_times(tmp_path):
    table = "y,z\n" + "".join(f"{n % 3},{-(n**2)}\n" for n in range(9))
    np.testing.assert_array_equal(
        series_from_csv(written(tmp_path, table), column="y").values, np.arange(9) % 3
    )


def by_time(tmp_path, times, values=None):
    values = np.arange(len(times)) % 7 if values is None else values
    rows = [f"{time},{value}" for time, value in zip(times, values, strict=True)]
    return series_from_csv(written(tmp_path, "\n".join(["when,y", *rows])), column="y")


@pytest.mark.parametrize(
    "times",
    [
        np.arange("2024-01-01", "2024-12-01", dtype="datetime64[D]"),
        np.arange("2024-01-01T00", "2024-01-09T00", dtype="datetime64[h]"),
        np.arange("2020-01", "2024-01", dtype="datetime64[M]").astype("datetime64[D]"),
        np.arange("2020-01", "2024-01", 3, dtype="datetime64[M]").astype("datetime64[D]"),
        np.arange("1950", "2024", dtype="datetime64[Y]").astype("datetime64[D]"),
        np.arange("2024-01-05", "2024-12-01", 7, dtype="datetime64[D]"),
        np.arange(1900, 1950),
    ],
)
def test_a_step_without_a_row_is_missing(tmp_path, times):
    complete = by_time(tmp_path, times)
    assert complete.known.all()
    known = np.ones(len(times), bool)
    known[7] = False
    made = by_time(tmp_path, times[known], (np.arange(len(times)) % 7)[known])
    np.testing.assert_array_equal(made.known, known)
    np.testing.assert_array_equal(made.times[known], complete.times[known])
    np.testing.assert_array_equal(made.values[known], complete.values[known])
    assert made.values[7] == (made.values[6] + made.values[8]) / 2
    assert np.all(np.diff(made.times).astype(int) > 0)


def test_days_of_the_week_without_rows_are_no_steps(tmp_path):
    days = np.arange("2024-01-01", "2024-07-01", dtype="datetime64[D]")
    weekday = np.is_busday(days)
    weekday[[40, 75]] = True  # two Saturdays
    assert by_time(tmp_path, days[weekday]).known.all()
    holiday = weekday & (days != np.datetime64("2024-05-01"))
    made = by_time(tmp_path, days[holiday])
    assert (~made.known).sum() == 1
    before = np.flatnonzero(~made.known)[0] - 1
    assert made.times[before].astype("datetime64[D]") == np.datetime64("2024-04-30")
    assert by_time(tmp_path, days[np.is_busday(days, "Mon Wed Fri")]).known.all()


def test_at_irregular_times_each_row_is_a_step(tmp_path):
    days = np.datetime64("2024-01-01") + np.cumsum(np.random.default_rng(0).integers(1, 60, 40))
    made = by_time(tmp_path, days)
    assert made.known.all()
    np.testing.assert_array_equal(made.times, days)


@pytest.mark.parametrize("last", ["2024-12-31", "2924-12-31"])  # the second must fit into memory
def test_a_long_gap_is_refused(tmp_path, last):
    days = np.arange("2024-01-01", "2024-06-30", dtype="datetime64[D]")
    seconds = (days.astype("datetime64[s]").astype(str)).tolist()
    with pytest.raises(
        ValueError, match=r"'y' by 'when': 50 of 181 steps .* between 2024-03-01T.* and 2024-04-21T"
    ):
        by_time(tmp_path, seconds[:61] + seconds[111:])
    with pytest.raises(ValueError, match=r"steps have no row, .* 2024-06-29T.*: add rows"):
        by_time(tmp_path, [*seconds, f"{last}T00:00:01"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('y\n"1,234.5"\n950\n"-1,234,567"\n', [1234.5, 950, -1234567]),
        ("y;z\n1.234,5;a\n950;a\n0,25;a\n", [1234.5, 950, 0.25]),
        ("y;z\n1.234;a\n950;a\n", [1234, 950]),
        ("y;z\n1.234;a\n0.950;a\n", [1.234, 0.95]),
        ("y;z\n1.25;a\n950;a\n", [1.25, 950]),
    ],
)
def test_separators_of_thousands(tmp_path, text, values):
    np.testing.assert_array_equal(series_from_csv(written(tmp_path, text)).values, values)


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("", {}, "is empty or blank"),
        ("y\n", {}, "has 0 rows of data, expected at least two"),
        ("y\na\nb\n", {}, "no column is numeric: 'y' has 'a' in data row 1"),
        (
            "date,shop,sales\n2024-01-01,A,$12.30\n2024-01-02,A,$9.10\n",
            {},
            r"no column is numeric beside the times 'date': 'sales' has '\$12\.30' in data row 1",
        ),
        ("year,n\n1999,a\n2000,b\n", {}, "beside the times 'year': 'n' has 'a' in data row 1"),
        (
            'n\n"1,234"\n"2345"\n"3,456"\n',
            {},
            "no column is numeric: 'n' has '1,234' in data row 1",
        ),
        ("a,b\n1,2\n3,4\n", {}, r"several columns are numeric \(a, b\): choose one with column"),
        (
            "a,b\n1,\n3,y\n",
            {"column": "b"},
            "is 'b', which is not numeric: 'b' has 'y' in data row 2",
        ),
        ("a,b\n1,2\n3,4\n", {"column": "a", "time": "a"}, "column and time are both 'a'"),
        ("a,b\n1,2\n3,4\n", {"column": "c"}, r"column is 'c', expected one of \['a', 'b'\]"),
        ("a,b\n1,2\n3,4\n", {"column": "a", "time": "c"}, r"time is 'c', expected one of"),
        ("a,a\n1,2\n3,4\n", {}, "expected no name twice"),
        ("a,b\n1,2\n3,4,5\n", {}, "is not a table"),
        ("y\n5\n5\n5\n", {}, r"column 'y': is 5\.0 throughout"),
        ("y\n5\n", {}, "has 1 rows of data, expected at least two"),
        ("y,z\n5,a\n,a\n", {}, "column 'y': has 1 values, expected at least two"),
        ("y\n5\n1\n-\n", {}, "data row 3, column 'y': expected a finite number .* got '-'"),
        ("y\n5\n1\ninf\n", {}, "data row 3, column 'y': expected a finite number .* got 'inf'"),
        ("y,z\n5,a\n,a\n1,a\n", {}, "1 of 3 values are missing, expected at most 10%"),
        ("t,y\n2024-01-01,1\n2024-01-01,2\n", {}, "'t' has 2024-01-01T00:00:00 2 times"),
        ("t,y\n1,1\n2,1\n1,2\n", {"time": "t"}, "'t' has 1 2 times"),
        ("t,y\n2024-01-01,1\n2024-01-02,2\nsoon,3\n", {}, "row 3, time column 't': .* got 'soon'"),
        ("t,y\n2024-01-01,1\n2024-01-02,2\n,3\n", {}, "row 3, time column 't': .* got nan"),
        ("t,y\nMay,1\nJune,2\n", {"time": "t"}, "row 1, time column 't': .* got 'May'"),
        ("t,y\n2024-02-30,1\n2024-02-01,2\n2024-02-02,2\n", {}, "row 1, .* got '2024-02-30'"),
        (
            "t,y\n01/02/2024,1\n02/02/2024,2\n",
            {},
            "'01/02/2024' as 2024-02-01 or 2024-01-02: write",
        ),
        ("t,y\n02-02-2024 1:00,1\n02-01-2024 1:00,2\n", {}, "'02-01-2024 1:00' as 2024-01-02 or"),
        ("t,y\n30-12-24,1\n29-12-24,2\n", {}, "'30-12-24' as 2024-12-30 or 2030-12-24: write"),
        (
            "t,y\nKW 1 2024,1\nKW 2 2024,2\n",
            {},
            "column 't' looks like times, but 'KW 1 2024' is in no form .* write 2024-12-31, name",
        ),
        ("Month,y\nI,1\nII,2\n", {}, "column 'Month' looks like times, but 'I' is in no form"),
        ("year,month,y\n1,1,3\n1,2,4\n", {"column": "y"}, "'year' has 1 2 times, .* leave it out"),
        ("t,y\n31-12-2024,1\n12/30/2024,2\n29-12-2024,3\n", {}, "row 2, .* got '12/30/2024'"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, options, problem):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=problem) as error:
        series_from_csv(path, **options)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: No such file"):
        series_from_csv(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"1\x002")
    with pytest.raises(ValueError, match=r"binary\.csv: is binary"):
        series_from_csv(path)
    for period, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="series_from_csv: period must be"):
            series_from_csv(written(tmp_path, "y\n1\n2\n"), period=period)
