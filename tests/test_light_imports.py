"""A package whose `__init__` was not run loads less, and behaves as the whole package for whoever uses it."""

import subprocess
import sys

import pytest

PACKAGES = ("prometheus_client", "pyroute2")
SKIP = "import sys; from exporter.light_imports import skip_init\nfor one in sys.argv[1:]: skip_init(one)\n"


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()


def test_what_only_the_init_imports_is_not_loaded():
    code = (
        "import prometheus_client.metrics, prometheus_client.process_collector, pyroute2.netlink.rtnl.rtmsg\n"
        "names = ('http.server', 'wsgiref', 'urllib.request', 'email', 'unittest', 'pyroute2.iproute', 'psutil')\n"
        "print(*(one for one in names if one in sys.modules))"
    )
    assert [] == python(SKIP + code, *PACKAGES)
    assert {"http.server", "urllib.request", "pyroute2.iproute"} <= set(python("import sys\n" + code))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_the_whole_package_is_there(package):
    code = f"import {package} as it; print(*sorted(one for one in vars(it) if one[0] != '_'))"
    names = python(code)
    take = f"\nfor one in sys.argv[2:]: exec('from {package} import ' + one)\nprint('done')"
    assert ["done"] == python(SKIP.replace("[1:]", "[1:2]") + take, package, *names)


def test_both_ways_lead_to_the_same_classes():
    code = (
        "from prometheus_client.metrics import Counter as one\nfrom prometheus_client import *\n"
        "from pyroute2.netlink.exceptions import NetlinkError as two\nfrom pyroute2 import NetlinkError\n"
        "print(one is Counter, two is NetlinkError, len(generate_latest()) > 100)"
    )
    assert ["True"] * 3 == python(SKIP + code, *PACKAGES)


def test_a_package_that_was_imported_before_stays_as_it_is():
    code = "import prometheus_client as it, pyroute2, sys\nbefore = dict(vars(it))\n" + SKIP
    assert ["True", "True"] == python(
        code + "print(vars(sys.modules['prometheus_client']) == before, hasattr(pyroute2, 'IPRoute'))", *PACKAGES
    )


def test_names_that_are_given_do_not_run_the_init():
    code = (
        "import sys\nfrom exporter.light_imports import skip_init\nskip_init('pyroute2')\n"
        "skip_init('pyroute2.config', machine='toaster')\nfrom pyroute2.config import machine\n"
        "print(machine, 'multiprocessing' in sys.modules)\n"
        "from pyroute2 import config\nprint(bool(config.kernel), config.machine != 'toaster')"
    )
    assert ["toaster", "False", "True", "True"] == python(code)


def test_a_name_that_nothing_has_is_no_attribute():
    code = "import prometheus_client\ntry: prometheus_client.nothing\nexcept AttributeError as error: print(error)"
    assert ["module", "'prometheus_client'", "has", "no", "attribute", "'nothing'"] == python(SKIP + code, *PACKAGES)


def test_a_package_that_is_not_installed_is_said_to_be():
    code = "try: skip_init('nowhere_71')\nexcept ModuleNotFoundError as error: print(error.name)"
    assert ["nowhere_71"] == python(SKIP + code)
