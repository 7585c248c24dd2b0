#!/bin/sh
# Open MPI's way into the containers of other machines: ssh to the machine, then into its container.
# Set OMPI_MCA_plm_rsh_agent to this file in the container in which mpirun runs; CONCH_CONTAINER is the containers' name.
# Called as: mpi_agent.sh HOST COMMAND, where COMMAND is one text for a shell, or its words.
set -eu
host=$1
shift
quoted=$(printf '%s' "$*" | sed "s/'/'\\\\''/g")
exec ssh "$host" docker exec -i "${CONCH_CONTAINER:-conch}" sh -c "'$quoted'"
