# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The kernels of `triton_attention`: attention of a tile of rows, and what joins its splits.

Knows blocks of rows and keys; knows nothing of tensors' shapes. The softmax is computed block by
block of keys (FlashAttention, arXiv 2205.14135). Where there are few rows the keys are split among
programs (Flash-Decoding), and the last of them to finish joins the parts, or a second kernel does.
"""
import triton
import triton.language as tl

from quantvla_ros.kernels.triton_start import release, wait


@triton.jit
def _loaded(at, columns, D: tl.constexpr, WHOLE: tl.constexpr, UPCAST: tl.constexpr):
    """Numbers of a head's columns, those beyond its size zero."""
    if WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=columns < D, other=0.0)
    if UPCAST:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _described(descriptor, row, column, UPCAST: tl.constexpr):
    """A block of rows of one head, fetched by the unit that reads descriptors."""
    x = descriptor.load([row, column])
    if UPCAST:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _weighed(logits, largest, total, scale):
    """Weights of a block, what remains of the sums before it, and the new largest and total."""
    larger = tl.maximum(largest, tl.max(logits, axis=1))
    base = tl.where(larger == float('-inf'), 0.0, larger * scale)
    # As one multiplication and addition; the scale is above 0, so the order of logits stays.
    weights = tl.exp2(logits * scale - base[:, None])
    shrunk = tl.exp2(largest * scale - base)
    return weights, shrunk, larger, total * shrunk + tl.sum(weights, axis=1)


@triton.jit
def _ratio(sums, total):
    """Sums over the sum of weights; NaN where there was nothing to sum."""
    return sums / tl.where(total > 0.0, total, float('nan'))[:, None]


@triton.jit
def attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    count_ptr,
    part_ptr,
    counter_ptr,
    k_desc,
    v_desc,
    M,
    T,
    q_stride,
    k_stride,
    v_stride,
    scale,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    COUNTED: tl.constexpr,
    CAUSAL: tl.constexpr,
    OWN: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    SPLITS: tl.constexpr,
    AFTER: tl.constexpr,
    WHOLE: tl.constexpr,
    DESCRIBED: tl.constexpr,
    LAST_STAGES: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per ROWS rows of queries, key head and segment, and split of the keys.

    q [segments M, KV GROUP, D], k and v [segments T, KV, D], rows a stride apart, heads side by
    side; out [segments M, KV GROUP D]. Of the first `count` keys, at count_ptr if COUNTED, else T.

    A part is SPLITS times rows of sums (WIDE + REST columns), largest logit and sum of weights.
    Where WHOLE, blocks of keys that every row sees come first, in a loop of their own, DESCRIBED
    by k_desc and v_desc; the few others go through LAST_STAGES.
    """
    wait(AHEAD)
    tile = tl.program_id(0)
    group = tl.program_id(1)
    split = tl.program_id(2)
    head = group % KV
    segment = group // KV
    row = tile * ROWS + tl.arange(0, ROWS)
    query = row // GROUP
    there = query < M
    # Rows beyond the edge read query 0; they are never stored.
    query = tl.where(there, query, 0)
    lane = (head * GROUP + row % GROUP) * D
    wide = tl.arange(0, WIDE)
    q_at = q_ptr + ((segment * M + query) * q_stride + lane)[:, None]
    q = _loaded(q_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
    k_head = k_ptr + segment * T * k_stride + head * D
    v_head = v_ptr + segment * T * v_stride + head * D
    sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
    if REST > 0:
        rest = WIDE + tl.arange(0, REST)
        q_rest = _loaded(q_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
        sums_rest = tl.zeros((ROWS, REST), dtype=tl.float32)

    count = T
    if COUNTED:
        count = tl.minimum(tl.load(count_ptr), T)
    if CAUSAL:
        count = tl.minimum(count, (tile * ROWS + ROWS - 1) // GROUP + 1)
    start = 0
    end = count
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(count, KEYS), SPLITS) * KEYS
        start = split * share
        end = tl.minimum(start + share, count)

    largest = tl.full((ROWS,), float('-inf'), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    whole = start
    if WHOLE:
        # Blocks of keys that every row sees need no masks.
        common = end
        if CAUSAL:
            common = tl.minimum(end, tile * ROWS // GROUP + 1)
        whole = start + tl.maximum(common - start, 0) // KEYS * KEYS
        for block in range(start, whole, KEYS):
            if DESCRIBED:
                place = segment * T + block
                k = tl.trans(_described(k_desc, place, head * D, UPCAST))
                v = _described(v_desc, place, head * D, UPCAST)
            else:
                at = block + tl.arange(0, KEYS)
                k_at = k_head + (at * k_stride)[None, :]
                v_at = v_head + (at * v_stride)[:, None]
                k = _loaded(k_at + wide[:, None], wide[:, None], D, WIDE <= D, UPCAST)
            logits = tl.dot(q, k, input_precision=PRECISION)
            if REST > 0:
                k = _loaded(k_at + rest[:, None], rest[:, None], D, WIDE + REST == D, UPCAST)
                logits = tl.dot(q_rest, k, logits, input_precision=PRECISION)
            weights, shrunk, largest, total = _weighed(logits, largest, total, scale)
            if not DESCRIBED:
                v = _loaded(v_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
            weights = weights.to(v.dtype)
            sums = tl.dot(weights, v, sums * shrunk[:, None], input_precision=PRECISION)
            if REST > 0:
                v = _loaded(v_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
                sums_rest = tl.dot(
                    weights, v, sums_rest * shrunk[:, None], input_precision=PRECISION
                )
    for block in tl.range(whole, end, KEYS, num_stages=LAST_STAGES):
        key = block + tl.arange(0, KEYS)
        inside = key < end
        # Keys beyond the edge read key 0, which every row sees, and weigh nothing.
        at = tl.where(inside, key, 0)
        k_at = k_head + (at * k_stride)[None, :]
        k = _loaded(k_at + wide[:, None], wide[:, None], D, WIDE <= D, UPCAST)
        logits = tl.dot(q, k, input_precision=PRECISION)
        if REST > 0:
            k = _loaded(k_at + rest[:, None], rest[:, None], D, WIDE + REST == D, UPCAST)
            logits = tl.dot(q_rest, k, logits, input_precision=PRECISION)
        visible = inside[None, :]
        if CAUSAL:
            visible = visible & (key[None, :] <= query[:, None])
        if OWN > 0:
            visible = visible & ((key[None, :] >= OWN) | (key[None, :] <= query[:, None]))
        logits = tl.where(visible, logits, float('-inf'))
        weights, shrunk, largest, total = _weighed(logits, largest, total, scale)
        v_at = v_head + (at * v_stride)[:, None]
        v = _loaded(v_at + wide[None, :], wide[None, :], D, WIDE <= D, UPCAST)
        weights = weights.to(v.dtype)
        sums = tl.dot(weights, v, sums * shrunk[:, None], input_precision=PRECISION)
        if REST > 0:
            v = _loaded(v_at + rest[None, :], rest[None, :], D, WIDE + REST == D, UPCAST)
            sums_rest = tl.dot(
                weights, v, sums_rest * shrunk[:, None], input_precision=PRECISION
            )

    release(AHEAD)
    out_at = out_ptr + ((segment * M + query) * (KV * GROUP * D) + lane)[:, None]
    kind = out_ptr.dtype.element_ty
    if SPLITS == 1:
        mask = there[:, None] & (wide[None, :] < D)
        tl.store(out_at + wide[None, :], _ratio(sums, total).to(kind), mask=mask)
        if REST > 0:
            mask = there[:, None] & (rest[None, :] < D)
            tl.store(out_at + rest[None, :], _ratio(sums_rest, total).to(kind), mask=mask)
    else:
        tiles = tl.num_programs(0) * tl.num_programs(1)
        corner = group * tl.num_programs(0) + tile
        part = part_ptr + corner * ROWS * (WIDE + REST + 2)
        stride = tiles * ROWS * (WIDE + REST + 2)
        lanes = tl.arange(0, ROWS)
        mine = part + split * stride
        heads = ROWS * (WIDE + REST) + lanes
        sums_at = lanes[:, None] * WIDE + wide[None, :]
        tl.store(mine + sums_at, sums)
        if REST > 0:
            rest_at = ROWS * WIDE + lanes[:, None] * REST + tl.arange(0, REST)[None, :]
            tl.store(mine + rest_at, sums_rest)
        tl.store(mine + heads, largest * scale)
        tl.store(mine + heads + ROWS, total)
        if not AFTER:
            # All threads have written before one of them says so.
            tl.debug_barrier()
            before = tl.atomic_add(counter_ptr + corner, 1, sem='acq_rel')
            if before == SPLITS - 1:
                tl.store(counter_ptr + corner, 0)
                largest = tl.full((ROWS,), float('-inf'), dtype=tl.float32)
                for other in tl.static_range(SPLITS):
                    found = tl.load(part + other * stride + heads, cache_modifier='.cg')
                    # A maximum drops NaN; the sum of the weights keeps it.
                    largest = tl.maximum(largest, found)
                base = tl.where(largest == float('-inf'), 0.0, largest)
                total = tl.zeros((ROWS,), dtype=tl.float32)
                sums = tl.zeros((ROWS, WIDE), dtype=tl.float32)
                if REST > 0:
                    sums_rest = tl.zeros((ROWS, REST), dtype=tl.float32)
                for other in tl.static_range(SPLITS):
                    theirs = part + other * stride
                    shrunk = tl.exp2(tl.load(theirs + heads, cache_modifier='.cg') - base)
                    total += shrunk * tl.load(theirs + heads + ROWS, cache_modifier='.cg')
                    sums += shrunk[:, None] * tl.load(theirs + sums_at, cache_modifier='.cg')
                    if REST > 0:
                        found = tl.load(theirs + rest_at, cache_modifier='.cg')
                        sums_rest += shrunk[:, None] * found
                mask = there[:, None] & (wide[None, :] < D)
                tl.store(out_at + wide[None, :], _ratio(sums, total).to(kind), mask=mask)
                if REST > 0:
                    mask = there[:, None] & (rest[None, :] < D)
                    tl.store(out_at + rest[None, :], _ratio(sums_rest, total).to(kind), mask=mask)


@triton.jit
def _with(some, another):
    """A tuple and one more."""
    return some + (another,)  # noqa: RUF005


@triton.jit
def join_kernel(
    out_ptr,
    part_ptr,
    M,
    KV: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    REST: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """One program per row of queries, key head and segment: joins the parts that were left AFTER.

    Each thread reads all logits and sums of weights itself: no thread waits for another, and all
    that is read is asked for at once.
    """
    release(AHEAD)
    row = tl.program_id(0)
    group = tl.program_id(1)
    tiles = tl.cdiv(tl.num_programs(0), ROWS)
    lane = row % ROWS
    stride = tiles * tl.num_programs(1) * ROWS * (WIDE + REST + 2)
    mine = part_ptr + (group * tiles + row // ROWS) * (ROWS * (WIDE + REST + 2))
    heads = mine + ROWS * (WIDE + REST) + lane
    wide = tl.arange(0, WIDE)
    sums = tl.zeros((WIDE,), dtype=tl.float32)
    if REST > 0:
        rest = tl.arange(0, REST)
        sums_rest = tl.zeros((REST,), dtype=tl.float32)
    wait(AHEAD)
    # All is asked for before the first of it is used, so that it takes one trip: the sums first,
    # and none of it is moved behind the barrier.
    logits, weights, parts, parts_rest = (), (), (), ()
    for split in tl.static_range(SPLITS):
        theirs = mine + split * stride
        parts = _with(parts, tl.load(theirs + lane * WIDE + wide))
        if REST > 0:
            at = theirs + ROWS * WIDE + lane * REST + rest
            parts_rest = _with(parts_rest, tl.load(at))
    tl.debug_barrier()
    for split in tl.static_range(SPLITS):
        logits = _with(logits, tl.load(heads + split * stride))
        weights = _with(weights, tl.load(heads + split * stride + ROWS))
    base = logits[0]  # type: ignore[misc]
    for split in tl.static_range(1, SPLITS):
        # A maximum drops NaN; the sum of the weights keeps it.
        base = tl.maximum(base, logits[split])
    base = tl.where(base == float('-inf'), 0.0, base)
    total = 0.0
    for split in tl.static_range(SPLITS):
        shrunk = tl.exp2(logits[split] - base)
        total += shrunk * weights[split]
        sums += shrunk * parts[split]
        if REST > 0:
            sums_rest += shrunk * parts_rest[split]
    total = tl.where(total > 0.0, total, float('nan'))
    head, segment = group % KV, group // KV
    out_at = out_ptr + (segment * M + row // GROUP) * (KV * GROUP * D)
    out_at += (head * GROUP + row % GROUP) * D
    kind = out_ptr.dtype.element_ty
    tl.store(out_at + wide, (sums / total).to(kind), mask=wide < D)
    if REST > 0:
        tl.store(out_at + WIDE + rest, (sums_rest / total).to(kind), mask=WIDE + rest < D)
