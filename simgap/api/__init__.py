"""What `import simgap` offers, one function or result a file: simgap/__init__.py says which name lives where."""
