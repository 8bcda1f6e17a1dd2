#!/bin/sh
# A loader with a defect: it reads the address of each target before the load, holds nothing, and reads nothing again.
probe=$1
shift
addresses=
for target in $PINPOINT_TARGETS; do
	address=$(cat "/sys/module/$target/sections/.gnu.linkonce.this_module") || exit 1
	addresses=$addresses${addresses:+,}$address
done
exec insmod "$probe" ${addresses:+"module_addresses=$addresses"} "$@"
