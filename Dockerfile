# One image for every service: the command says which. Built in one stage, run in another, never as root.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/raftar
ENV PATH=/opt/raftar/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
COPY migrations migrations
RUN pip install .

FROM python:3.13-slim
RUN groupadd --gid 10001 raftar \
 && useradd --uid 10001 --gid raftar --no-create-home --shell /usr/sbin/nologin raftar \
 && install -d -m 700 -o raftar -g raftar /data
COPY --from=build /opt/raftar /opt/raftar
ENV PATH=/opt/raftar/bin:$PATH PYTHONUNBUFFERED=1 RAFTAR_DATA_DIR=/data RAFTAR_HOST=0.0.0.0
USER raftar
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081 8082
CMD ["python", "-m", "services", "run"]
