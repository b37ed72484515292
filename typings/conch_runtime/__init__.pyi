# An entry holds copies of contract.py and engine.py in a package of this name, beside model.py.
