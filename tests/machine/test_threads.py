from qlora_kit.machine import threads


def test_thread_policy_leaves_the_users_choice_alone():
    environ = {"GOMP_SPINCOUNT": "infinite"}
    threads.apply_thread_policy(environ)
    assert environ["GOMP_SPINCOUNT"] == "infinite"
    assert environ["KMP_BLOCKTIME"] == "1"
