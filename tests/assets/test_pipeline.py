def test_a(lender, run, attempts):
    import time
    v=lender.onboard(segments=["product"])
    days=[f"2026-01-{d:02d}" for d in range(1,4)]
    for d in days: lender.land(d)
    t=time.time()
    r=run(v,days)
    print(time.time()-t)
    for k,x in r.items(): print(k, x.outcome.state, x.result.status, x.result.reason, x.result.live)
    for k in lender.keys(): print(k)
    print(attempts(v,"2026-01-03","psi"))
    t=time.time()
    r=run(v,days)
    print(time.time()-t)
