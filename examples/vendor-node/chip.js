// What things cost on the chip: the part that a vendor keeps for itself. Times in seconds, on one device.
// An invented accelerator: `cores` systolic arrays of 128 x 128 at 1.2 GHz, on 4 TB/s of memory.
'use strict';

const TILE = 128;
const CLOCK_HZ = 1.2e9;
const MEMORY_BYTES_PER_S = 4.0e12;
const LINK_BYTES_PER_S = 200e9;
const START_S = 2e-6; // of a kernel
const LINK_START_S = 5e-6;
const BYTES = { bf16: 2, fp8: 1 };
const ACTIVE_W = 450; // above idle

const tiles = (size) => Math.ceil(size / TILE);

function streamed(bytes) {
  return START_S + bytes / MEMORY_BYTES_PER_S;
}

function product(m, n, k, bytes, cores) {
  const waves = Math.ceil((tiles(m) * tiles(n)) / cores);
  const compute = (waves * (k + 2 * TILE)) / CLOCK_HZ;
  const memory = (n * k * bytes + m * (n + k) * 2) / MEMORY_BYTES_PER_S;
  return START_S + Math.max(compute, memory);
}

function attention(a, bytes, queries, keys, cores) {
  // Queries times keys, twice, on the arrays; or the cache through memory.
  const flopPerS = cores * TILE * TILE * 2 * CLOCK_HZ;
  const compute = (4 * a.heads * a.head_dim * queries * keys) / (0.5 * flopPerS);
  return { compute, memory: (2 * a.kv_heads * a.head_dim * bytes * keys) / MEMORY_BYTES_PER_S };
}

const PRICES = {
  gemm: ({ m }, a, bytes, cores) => product(m, a.n, a.k, bytes, cores),
  'attention.decode': ({ batch, context }, a, bytes, cores) => {
    const one = attention(a, bytes, 1, context, cores);
    return START_S + batch * Math.max(one.compute, one.memory);
  },
  'attention.prefill': ({ batch, tokens, cached }, a, bytes, cores) => {
    const one = attention(a, bytes, tokens, cached + tokens / 2, cores);
    return START_S + batch * Math.max(one.compute, one.memory);
  },
  norm: ({ tokens }, a) => streamed(8 * tokens * a.hidden),
  rotary: ({ tokens }, a) => streamed(4 * tokens * (a.heads + 2 * a.kv_heads) * a.head_dim),
  elementwise: ({ tokens }, a) => streamed(2 * tokens * a.width * (a.inputs + 1)),
  embedding: ({ tokens }, a) => streamed(4 * tokens * a.hidden),
  sample: ({ sequences }, a) => streamed(16 * sequences * a.vocab),
  'collective.all_reduce': ({ bytes }, a) => LINK_START_S + (2 * (a.ranks - 1) * bytes) / a.ranks / LINK_BYTES_PER_S,
  'collective.all_gather': ({ bytes }, a) => LINK_START_S + ((a.ranks - 1) * bytes) / a.ranks / LINK_BYTES_PER_S,
};

const DIMENSIONS = {
  gemm: ['m'],
  'attention.decode': ['batch', 'context'],
  'attention.prefill': ['batch', 'tokens', 'cached'],
  norm: ['tokens'],
  rotary: ['tokens'],
  elementwise: ['tokens'],
  embedding: ['tokens'],
  sample: ['sequences'],
  'collective.all_reduce': ['bytes'],
  'collective.all_gather': ['bytes'],
};

// The price of one operator, or null for a size that makes no sense.
function price(operator, sizes, cores) {
  if (Object.values(sizes).some((size) => !(size >= 0 && size <= 2 ** 50))) return null;
  const seconds = PRICES[operator.kind](sizes, operator.attributes, BYTES[operator.dtype], cores);
  return { seconds, joules: seconds * ACTIVE_W };
}

module.exports = { price, DIMENSIONS, DTYPES: Object.keys(BYTES) };
