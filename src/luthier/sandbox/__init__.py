"""Run code that a model wrote against unit tests, without trusting either.

Two processes of their own, each confined by the kernel (``confine.py``): the *candidate* runs the model's code and
answers calls; the *tester* runs the tests, calls the candidate and says the verdict. They exchange plain data alone, so
code that would rewrite a test, an exception or the verdict has nothing of the tester's to reach.
"""

from luthier.sandbox.run import OUTCOMES, Limits, Verdict, run_tests, unavailable

__all__ = ["OUTCOMES", "Limits", "Verdict", "run_tests", "unavailable"]
