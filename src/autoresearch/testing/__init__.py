"""For tests of engines and plug-ins: a run in simulated time, with scripted agents and programs."""
