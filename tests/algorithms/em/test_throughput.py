from verglas.algorithms.em.throughput import measure_throughput


def test_scoring_and_matrix_product_have_rates():
    rates = measure_throughput(n_views=8)
    assert rates.ceiling_gflops > 0
    assert rates.scoring_gflops > 0
    assert 0 < rates.fraction < 50
