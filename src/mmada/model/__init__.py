from mmada.io.quiet import quiet_imports

quiet_imports()  # before transformers is imported, which imports torchao where that is installed
