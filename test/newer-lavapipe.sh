#!/usr/bin/env bash
# Unpacks Mesa's lavapipe from Debian 13's backports, with the libraries it needs, into a folder, and writes FOLDER/node:
# a Node that runs on it. That lavapipe has subgroup matrices, which the one of Debian 12 has not. Nothing is installed,
# no root is needed. x64 only. Usage:
#   test/newer-lavapipe.sh FOLDER && LASER_TEST_NODE=FOLDER/node node test/run.mjs product-matrix attention-matrix mixed-precision compare-models
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: test/newer-lavapipe.sh FOLDER" >&2; exit 1; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
wrapper=$folder/node
[ -x "$wrapper" ] && exit 0

# The mirror of this machine's own apt sources.
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
  uri=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources)
else
  uri=$(sed -nE 's/^deb (\[[^]]*\] )?([^ ]+) [a-z]+ .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
fi
if [ -z "${uri:-}" ] || [ ! -e "$keyring" ] || ! command -v apt-get >/dev/null; then
  echo "newer-lavapipe: this machine has no Debian package sources" >&2
  exit 1
fi

# apt with a state of its own, in which nothing is installed: it finds every library down to libc.
state=$folder/apt
mkdir -p "$state/lists/partial" "$state/archives/partial"
: >"$state/status"
printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" trixie "$keyring" "$uri" trixie-backports >"$state/sources.list"
apt=(apt-get -qq -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o "Dir::State=$state"
  -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state"
  -o "Dir::Cache::archives=$state/archives" -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=-
  -o Debug::NoLocking=1 -o "APT::Sandbox::User=$(id -un)")
"${apt[@]}" update
"${apt[@]}" install --download-only -y --no-install-recommends -t trixie-backports mesa-vulkan-drivers libvulkan1 \
  libstdc++6 >/dev/null
for package in "$state"/archives/*.deb; do dpkg -x "$package" "$folder/root"; done
rm -rf "$state"

libraries=$folder/root/usr/lib/x86_64-linux-gnu
driver=$libraries/libvulkan_lvp.so
[ -e "$driver" ] || { echo "newer-lavapipe: the packages hold no $driver" >&2; exit 1; }
printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.4.0"}}\n' "$driver" \
  >"$folder/lavapipe.json"
# Vectors of 256 bits: with 512 the driver (26.1) crashes on subgroup matrices.
cat >"$wrapper.partial" <<WRAPPER
#!/bin/sh
export VK_DRIVER_FILES='$folder/lavapipe.json' LP_NATIVE_VECTOR_WIDTH=256
exec '$(find "$folder/root" -name ld-linux-x86-64.so.2 | head -n 1)' --library-path '$libraries' '$(command -v node)' "\$@"
WRAPPER
chmod +x "$wrapper.partial"
mv "$wrapper.partial" "$wrapper"
