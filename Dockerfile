# The exporter's image: Python, the two readers, libseccomp and the exporter; no shell, package manager or build tools.
#
# The same file builds for amd64 and arm64. `make image` builds it with docker or buildah; BASE is any Debian 13 root.
ARG BASE=docker.io/library/debian:trixie-slim

# --- The exporter in a virtual environment. All that is fetched from PyPI is asked for by its hash: uv in .ci/uv.txt, what
# builds the wheel and what it depends on in uv.lock.
FROM ${BASE} AS venv
COPY .ci/uv.txt /uv.txt
RUN export DEBIAN_FRONTEND=noninteractive && apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends python3.13-venv >/dev/null \
    && python3.13 -m venv /uv \
    && /uv/bin/pip -q --disable-pip-version-check install --require-hashes -r /uv.txt
ENV UV_PROJECT_ENVIRONMENT=/opt/calico-bpf-exporter UV_PYTHON=/usr/bin/python3.13 UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
# Dependencies first: they change seldom, so their layer is made anew seldom.
RUN /uv/bin/uv sync -q --locked --no-dev --extra node --no-install-project
COPY .ci/build-dist .ci/compile-without-docstrings .ci/
COPY exporter exporter
COPY docs/commands.md docs/commands.md
RUN .ci/build-dist /uv/bin/uv /dist \
    && /uv/bin/uv pip install -q --no-deps --python /opt/calico-bpf-exporter/bin/python /dist/*.whl \
    # Isolated from PYTHON… variables, which can run other programs, and unbuffered, without writing byte code.
    && sed -i '1s/$/ -IBu/' /opt/calico-bpf-exporter/bin/calico-bpf-exporter \
    # Tests and headers of the dependencies, and what only activates an environment in a shell.
    && cd /opt/calico-bpf-exporter \
    && find lib -type d \( -name tests -o -name include \) -prune -exec rm -r {} + \
    && find lib -name '*.pyi' -delete \
    && find bin -name 'activate*' -delete && find bin -name 'deactivate*' -delete \
    # Nothing reads docstrings, which take a MiB of memory with those of the standard library, but the help of commands.
    && bin/python /src/.ci/compile-without-docstrings "$PWD/lib/python3.13/site-packages" exporter/cli exporter/kubectl

# --- The root: Debian packages unpacked side by side, with what they depend on and nothing else.
FROM ${BASE} AS root
# BCC=python3-bpfcc adds the third reader (docs/kubernetes.md says what it weighs).
ARG BCC=
WORKDIR /packages/partial
WORKDIR /packages
# An empty status makes apt fetch all that is depended on, as for a machine that has nothing.
RUN export DEBIAN_FRONTEND=noninteractive && apt-get -qq update \
    && apt-get -qq install -y --no-install-recommends python3.13-minimal >/dev/null \
    && apt-get -qq install -y --no-install-recommends --download-only -o Dir::State::status=/dev/null \
        -o Dir::Cache::archives=/packages -o APT::Sandbox::User=root base-files python3.13 libstdc++6 libbpf1 bpftool \
        libseccomp2 ${BCC} \
    # Depended on for a machine's administration, and by modules of Python that nothing imports.
    && rm -f debconf_* mawk_* tzdata_* libdb5* readline-common_* dpkg_* tar_*
COPY .ci/compile-without-docstrings /
RUN mkdir -p /root-fs/etc /root-fs/tmp /root-fs/var/lib/dpkg/status.d \
    && dpkg-deb -x base-files_*.deb /root-fs \
    && for package in *.deb; do \
        dpkg-deb -x "$package" /root-fs; \
        # Where scanners of images look for the packages of one without a package manager.
        dpkg-deb -f "$package" >"/root-fs/var/lib/dpkg/status.d/${package%%_*}"; \
    done \
    && cd /root-fs/usr/share \
    && find doc -type f ! -name copyright -delete \
    && rm -rf man info locale lintian bash-completion applications pixmaps perl5 \
    && rm -rf /root-fs/usr/lib/*/gconv /root-fs/usr/lib/python3.13/test /root-fs/usr/lib/python3.13/pydoc_data \
    && rm -f /root-fs/usr/bin/pdb3* /root-fs/usr/bin/pydoc3* /root-fs/usr/bin/pygettext3* \
    && echo 'root:x:0:0:root:/:/nonexistent' >/root-fs/etc/passwd \
    && echo 'root:x:0:' >/root-fs/etc/group \
    && echo 'hosts: files dns' >/root-fs/etc/nsswitch.conf \
    && python3.13 /compile-without-docstrings --installed-in /usr/lib/python3.13 /root-fs/usr/lib/python3.13

FROM scratch
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="calico-bpf-exporter" \
    org.opencontainers.image.description="Prometheus exporter for Calico's eBPF dataplane" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/calico-bpf-exporter/calico-bpf-exporter" \
    org.opencontainers.image.documentation="https://github.com/calico-bpf-exporter/calico-bpf-exporter/tree/main/docs" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
COPY --from=root /root-fs /
COPY --from=venv /opt/calico-bpf-exporter /opt/calico-bpf-exporter
# /usr/sbin has bpftool.
ENV PATH=/opt/calico-bpf-exporter/bin:/usr/sbin:/usr/bin \
    CALICO_BPF_EXPORTER_REVISION="${REVISION}"
EXPOSE 10042
ENTRYPOINT ["/opt/calico-bpf-exporter/bin/calico-bpf-exporter"]
CMD ["serve"]
