from greg_compress.cli import app

app(prog_name="greg")
