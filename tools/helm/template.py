"""Renders a chart with Helm's own library: template.py CHART [VALUES_AS_JSON].

Prints {"template": "text"} as JSON, or exits with 1 and Helm's message.
"""

import json
import sys

from helm_python.chart import Chart
from helm_python.errors import HelmError


def main() -> int:
    chart, values = sys.argv[1], json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    try:
        with Chart.load(chart) as loaded:
            json.dump(loaded.render(values=values, name="beeline", namespace="kube-system"), sys.stdout)
    except HelmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


sys.exit(main())
