"""Public data sets, from their publishers' archives to folders that our commands and Detectron2 read. Read `prepare` first.

table.py what there is and where; prepare.py fetch, unpack, publish; archives.py safe reading of tar and zip; tree.py a folder on its
way; layouts.py what an archive's members become; verify.py what is wrong with a folder; checks.py annotations and their images;
report.py what the command says; progress.py how far a long step is.
"""
