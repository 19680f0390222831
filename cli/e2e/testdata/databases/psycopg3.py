"""psycopg 3: libpq's pipeline mode, binary results, server-side cursors, COPY."""
import os
import psycopg

url = os.environ["POSTGRES_URL"]
tls = "?sslmode=verify-full&sslrootcert=" + os.environ["SSL_CERT_FILE"]
with psycopg.connect(url + tls + "&channel_binding=require") as c:
    with c.pipeline():
        cursors = [c.execute("SELECT %s::int", [i]) for i in range(1000)]
        assert [q.fetchone()[0] for q in cursors] == list(range(1000))
    c.execute("CREATE TEMP TABLE t (n int, s text)")
    with c.cursor() as q:
        with q.copy("COPY t FROM STDIN") as copy:
            for i in range(10000):
                copy.write_row((i, "row"))
        with q.copy("COPY t TO STDOUT") as copy:
            assert sum(bytes(b).count(b"\n") for b in copy) == 10000
    with c.cursor(name="server", binary=True) as q:
        q.execute("SELECT n FROM t ORDER BY n")
        assert [r[0] for r in q.fetchmany(100)] == list(range(100))
    with c.transaction(force_rollback=True):
        c.execute("DELETE FROM t")
    assert c.execute("SELECT count(*) FROM t").fetchone()[0] == 10000
try:
    psycopg.connect(url.replace("user_scram", "user_md5") + tls)
except psycopg.OperationalError as e:
    assert "password authentication failed" in str(e), e
print("psycopg ok")
