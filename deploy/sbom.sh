#!/bin/sh
# sbom.sh PYTHON UV: write the image's packages (CycloneDX) and their licences into dist/. Fail on a licence that
# [tool.pip-licenses] in pyproject.toml does not allow. Everything is installed with hashes.
set -eu
python=$1 uv=$2
trap 'rm -rf .cache/image' EXIT  # 1.7 GB, installed in half a minute
for name in image audit; do
    "$uv" venv --quiet --allow-existing --no-python-downloads --python "$python" ".cache/$name"
    "$uv" pip sync --quiet --python ".cache/$name/bin/python" --require-hashes "deploy/$name.lock"
done
tools=$PWD/.cache/audit/bin packages=$PWD/.cache/image/bin/python
mkdir -p dist
"$tools/cyclonedx-py" environment "$packages" --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json
# In dist/, where no configuration hides the exceptions.
(cd dist && "$tools/pip-licenses" --python "$packages" --from=mixed --format=csv --with-urls --output-file licences.csv)
"$tools/pip-licenses" --python "$packages" >/dev/null
echo "dist/sbom.cdx.json, dist/licences.csv: all licences are allowed"
