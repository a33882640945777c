# The same images as `go run ./deploy/image` makes without Docker:
#   docker build --target assay -t assay .
#   docker build --target assay-webhook -t assay-webhook .
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ARG TARGETOS TARGETARCH VERSION=dev
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -ldflags "-s -w -X main.release=$VERSION" -o /out/ ./cmd/assay ./cmd/assay-webhook
RUN mkdir -p -m 0700 /root-fs/home/assay && chown 65532:65532 /root-fs/home/assay && chmod 0755 /root-fs/home \
	&& mkdir -m 1777 /root-fs/tmp && mkdir -p /root-fs/etc/ssl/certs \
	&& cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \
	&& echo 'root:x:0:' >/root-fs/etc/group && echo 'assay:x:65532:' >>/root-fs/etc/group \
	&& echo 'root:x:0:0:root:/root:/sbin/nologin' >/root-fs/etc/passwd \
	&& echo 'assay:x:65532:65532:Assay:/home/assay:/sbin/nologin' >>/root-fs/etc/passwd

FROM scratch AS base
COPY --from=build /root-fs/ /
ENV PATH=/usr/bin HOME=/home/assay
WORKDIR /home/assay
USER 65532:65532
LABEL org.opencontainers.image.source=https://github.com/assay-dev/assay org.opencontainers.image.licenses=Apache-2.0

FROM base AS assay-webhook
COPY --from=build /out/assay-webhook /usr/bin/assay-webhook
LABEL org.opencontainers.image.title=assay-webhook
ENTRYPOINT ["/usr/bin/assay-webhook"]

FROM base AS assay
COPY --from=build /out/assay /usr/bin/assay
LABEL org.opencontainers.image.title=assay
ENTRYPOINT ["/usr/bin/assay"]
