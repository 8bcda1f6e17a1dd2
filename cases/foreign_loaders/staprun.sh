#!/bin/sh
# systemtap's own loader, from the Debian packages that the guest has below /tools.
#
# staprun is dynamically linked, so it runs in a chroot of its packages. It gets what its command line takes: the module
# and its parameters.
probe=$1
shift
name=$(basename "$probe")
cp "$probe" "/tools/tmp/$name" || exit 1
chroot /tools staprun "/tmp/$name" "$@" </dev/null
status=$?
rm -f "/tools/tmp/$name"
exit $status
