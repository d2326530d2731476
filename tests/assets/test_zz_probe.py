import polars as pl, pytest, numpy as np, traceback, io
def show(r):
    for k,x in r.items(): print("  ",k, x.outcome.state, x.result.status, repr(x.result.reason), [ (m.metric,m.column,m.value,m.status,m.note) for m in x.result.metrics if m.status!="ok"])
def pq(f,**k):
    b=io.BytesIO(); f.write_parquet(b,**k); return b.getvalue()
def go(what, f):
    print("==",what)
    try: f()
    except BaseException as e:
        print("EXC",type(e).__mro__[:3],str(e)[:300]); traceback.print_exc(limit=-2)
def test_bad(lender, run):
    v=lender.onboard(precomputed=True)
    good=lender.rows("x")
    data=pq(good)
    cases={
     "zero bytes":b"", "trunc":data[:len(data)//2], "trunc end":data[:-10], "text":b"a,b\n1,2\n"*100,
     "corrupt page": data[:200]+bytes(400)+data[600:],
     "corrupt page2": data[:5000]+bytes(b^0x5a for b in data[5000:6000])+data[6000:],
     "magic only": b"PAR1PAR1", "magic": b"PAR1"+b"\xff"*100+b"\xff\xff\xff\x7fPAR1",
     "rand": b"PAR1"+np.random.default_rng(0).bytes(5000)+(3000).to_bytes(4,"little")+b"PAR1",
     "nokey": good.drop("application_id"), "noincome":good.drop("income"),
     "int2text":good.with_columns(pl.col("age").cast(pl.String)),
     "text2int":good.with_columns(region=pl.lit(1)),
     "int2float":good.with_columns(pl.col("age").cast(pl.Float64)),
     "float2int":good.with_columns(pl.col("income").cast(pl.Int32)),
     "list":good.with_columns(income=pl.concat_list("income")),
     "keylist":good.with_columns(application_id=pl.concat_list("income")),
     "keystruct":good.with_columns(application_id=pl.struct("income")),
     "keyfloatnan":good.with_columns(application_id=pl.lit(float("nan"))),
     "dup": pl.concat([good,good.head(3)]), "nullkey": good.with_columns(application_id=pl.when(pl.col("age")>60).then(pl.col("application_id"))),
     "score text": good.with_columns(vendor_score=pl.lit("a")),
     "score null": good.with_columns(vendor_score=pl.lit(None)),
     "score inf": good.with_columns(vendor_score=pl.lit(float("inf"))),
     "score 2": good.with_columns(vendor_score=pl.lit(2.0)),
     "inf": good.with_columns(income=pl.lit(float("inf"))),
     "-inf nan": good.with_columns(income=pl.when(pl.col("age")>40).then(float("-inf")).otherwise(float("nan"))),
     "allnull": good.with_columns(income=pl.lit(None)),
     "allnull region": good.with_columns(region=pl.lit(None)),
     "const": good.with_columns(income=pl.lit(1.0),region=pl.lit("<script>alert(1)</script>")),
     "dupcols?": good,
    }
    for i,(name,d) in enumerate(cases.items()):
        day=f"2026-02-{i+1:02d}" if i<28 else f"2026-03-{i-27:02d}"
        lender.land(day, d if isinstance(d,bytes) else d)
        def f():
            show(run(v,[day]))
        go(name,f)
