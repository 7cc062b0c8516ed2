"""HERMES inside a serving stack: the simulated cluster behind real endpoints, paced by the wall clock.

Needs the extra `hermes-core[serve]`. The parts, from the engine outwards: `session` (requests enter the engine while
it runs), `pacer` (simulated time keeps step with the wall clock), `app` (the OpenAI-compatible server), `server`
(sockets, limits, draining).
"""
