# The managed plugin's root file system: one static binary on nothing.
#
# `make rootfs` makes the same without Docker, and reads this file to do so: a
# directory for each WORKDIR line, a file for the COPY line. For an image:
#
#   make rootfs ARCH=arm64 && docker buildx build --platform linux/arm64 .
#
# (The builder without BuildKit needs --build-arg TARGETARCH=amd64.)
FROM scratch
ARG TARGETARCH

# Where the plugin mounts volumes: propagatedMount in config.json.
WORKDIR /mnt/efs
# Where the plugin's socket is made; the Engine binds its own directory over it.
WORKDIR /run/docker/plugins
# Mount points of what the Engine gives every plugin.
WORKDIR /dev
WORKDIR /etc
WORKDIR /proc
WORKDIR /sys
WORKDIR /

COPY build/plugin-${TARGETARCH}/rootfs/docker-volume-efs /docker-volume-efs
ENTRYPOINT ["/docker-volume-efs", "serve"]
