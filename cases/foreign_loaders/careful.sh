#!/bin/sh
# A loader that follows docs/foreign-loaders.md in every point. It needs only busybox.
#
#	PINPOINT_TARGETS="MODULE..." careful.sh PROBE.ko [PARAMETER=VALUE...]
#
# It opens each target's section file twice, because the kernel answers one read of each open file.
probe=$1
shift
addresses=
fd=3
for target in $PINPOINT_TARGETS; do
	token=/sys/module/$target/sections/.gnu.linkonce.this_module
	[ -r "$token" ] || { echo "$target has no section file" >&2; exit 1; }
	eval "exec $fd<\$token $((fd + 1))<\$token"
	address=$(dd bs=64 count=1 2>/dev/null <&$fd)
	case $address in
	0x*[1-9a-f]*) ;;
	*) echo "the address of $target cannot be read: $address" >&2; exit 1 ;;
	esac
	addresses=$addresses${addresses:+,}$address
	fd=$((fd + 2))
done
insmod "$probe" ${addresses:+"module_addresses=$addresses"} "$@" || exit 1
# The probe accepts the same build at the same address. Only the open file shows that the target was replaced.
while [ $fd -gt 3 ]; do
	dd bs=64 count=1 >/dev/null 2>&1 <&$((fd - 1)) && fd=$((fd - 2)) && continue
	echo "a target was replaced during the load" >&2
	rmmod "$(basename "$probe" .ko)"
	exit 1
done
