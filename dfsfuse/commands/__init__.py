"""The commands of `dfs`, a module for each noun. Every command is a function: parsed arguments -> exit status."""
