// A hardware service of HERMES in JavaScript: the protocol around chip.js. Run by HERMES, or by hand:
//   HERMES_HW_ENDPOINT=unix:chip.sock node server.js
'use strict';

const crypto = require('node:crypto');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');
const chip = require('./chip');

const PROTO = process.env.HERMES_PROTO || path.join(__dirname, '..', '..', 'proto');
const OPTIONS = { keepCase: true, longs: Number, defaults: true, includeDirs: [PROTO, __dirname] };
const { hermes } = grpc.loadPackageDefinition(loader.loadSync('hermes_proto/hw/v1/hardware_model.proto', OPTIONS));
const { grpc: standard } = grpc.loadPackageDefinition(loader.loadSync('health.proto', OPTIONS));
const errors = protobuf.loadSync(path.join(__dirname, 'errors.proto'));
const Status = errors.lookupType('google.rpc.Status');
const BadRequest = errors.lookupType('google.rpc.BadRequest');

const SERVICE = 'hermes.hw.v1.HardwareModelService';
const VERSION = '1.0.0';
const MAX_QUERIES = 16384;
const MAX_BYTES = 2 * 1024 * 1024;
const SCHEMA = {
  type: 'object',
  properties: { cores: { type: 'integer', minimum: 1, maximum: 1024, description: 'systolic arrays of a device' } },
  additionalProperties: false,
};
const SERVING = 1;
const ERROR = 3; // Severity
const ANALYTICAL = 4; // PriceSource

const digest = (...parts) => crypto.createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
const FINGERPRINT = digest('example.org', 'node-npu', VERSION);
const sessions = new Map();

class Refusal extends Error {
  constructor(code, details) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

// INVALID_ARGUMENT, with the fields that are wrong: [{field, description}]. Hosts show each of them.
class BadField extends Refusal {
  constructor(fieldViolations) {
    const details = fieldViolations.map(({ field, description }) => `${field}: ${description}`).join('; ');
    super(grpc.status.INVALID_ARGUMENT, details);
    const value = BadRequest.encode({ fieldViolations }).finish();
    const detail = { type_url: 'type.googleapis.com/google.rpc.BadRequest', value };
    const status = Status.encode({ code: this.code, message: details, details: [detail] }).finish();
    this.metadata = new grpc.Metadata();
    this.metadata.set('grpc-status-details-bin', Buffer.from(status));
  }
}

const badField = (field, description) => new BadField([{ field, description }]);

function unary(handler) {
  return (call, callback) => {
    try {
      callback(null, handler(call.request));
    } catch (error) {
      callback(error instanceof Refusal ? error : { code: grpc.status.INTERNAL, details: String(error) });
    }
  };
}

// [{path, summary}] of everything that is wrong with a configuration, and the configuration.
function check(text) {
  let config;
  try {
    config = JSON.parse(text || '{}');
  } catch (error) {
    return { wrong: [{ path: '', summary: `it is not JSON: ${error.message}` }] };
  }
  if (config === null || typeof config !== 'object' || Array.isArray(config)) {
    return { wrong: [{ path: '', summary: 'it is no JSON object' }] };
  }
  const wrong = Object.keys(config)
    .filter((key) => !(key in SCHEMA.properties))
    .map((key) => ({ path: `/${key.replace(/~/g, '~0').replace(/\//g, '~1')}`, summary: `there is no ${key} to set` }));
  const { cores = 64 } = config;
  if (!Number.isInteger(cores) || cores < 1 || cores > 1024) {
    wrong.push({ path: '/cores', summary: 'cores is a whole number from 1 to 1024' });
  }
  return { config: { cores }, wrong };
}

function describe() {
  const kinds = Object.entries(chip.DIMENSIONS);
  return {
    vendor: 'example.org',
    model: 'node-npu',
    version: VERSION,
    device: {
      name: 'node-npu',
      memory_bytes: 96 * 2 ** 30,
      memory_bandwidth_bytes_per_s: 4.0e12,
      dtypes: chip.DTYPES,
      idle_power_w: 60,
      peak_power_w: 510,
    },
    fingerprint: FINGERPRINT,
    determinism: 'DETERMINISM_PURE',
    capabilities: ['CAPABILITY_OPERATOR', 'CAPABILITY_ENERGY'],
    operators: kinds.map(([kind, dimensions]) => ({ kind, dtypes: chip.DTYPES, dimensions })),
    limits: { max_queries_per_call: MAX_QUERIES, max_request_bytes: MAX_BYTES },
    config_schema_json: JSON.stringify(SCHEMA),
  };
}

function openSession(request) {
  const content = JSON.stringify(request);
  const known = sessions.get(request.session_id);
  if (known && known.content !== content) {
    throw badField('session_id', 'this session is open with other content');
  }
  if (!request.session_id) throw badField('session_id', 'a session has a name');
  const { config, wrong } = check(request.config_json);
  if (wrong.length) {
    throw new BadField(wrong.map((item) => ({ field: `config_json${item.path}`, description: item.summary })));
  }
  for (const { kind, dtype, dimensions } of request.operators) {
    const wanted = chip.DIMENSIONS[kind];
    if (!wanted || !chip.DTYPES.includes(dtype)) {
      throw new Refusal(grpc.status.UNIMPLEMENTED, `${kind} in ${dtype} is not priced here`);
    }
    if (dimensions.join() !== wanted.join()) {
      throw badField('operators', `${kind} has the dimensions ${wanted.join(', ')}`);
    }
  }
  sessions.set(request.session_id, { content, config, operators: request.operators });
  return { session_fingerprint: digest(FINGERPRINT, config) };
}

function estimate(request) {
  const session = sessions.get(request.session_id);
  if (!session) throw new Refusal(grpc.status.FAILED_PRECONDITION, 'there is no such session: open it again');
  const { op_ref: refs, dims } = request;
  if (request.steps && request.steps.sequence_offsets.length) {
    throw new Refusal(grpc.status.UNIMPLEMENTED, 'whole steps are not priced here');
  }
  if (refs.length > MAX_QUERIES) throw new Refusal(grpc.status.RESOURCE_EXHAUSTED, `split it: ${MAX_QUERIES} at most`);
  const answer = { latency_ps: [], energy_j: [], source: [], errors: [] };
  let next = 0;
  for (const [index, ref] of refs.entries()) {
    const operator = session.operators[ref];
    if (!operator) throw badField('op_ref', `${ref} is not in the session's table`);
    const sizes = {};
    for (const name of operator.dimensions) sizes[name] = dims[next++];
    if (next > dims.length) throw badField('dims', 'they end before the questions do');
    const found = chip.price(operator, sizes, session.config.cores);
    answer.latency_ps.push(found ? Math.max(1, Math.round(found.seconds * 1e12)) : 0);
    answer.energy_j.push(found ? found.joules : 0);
    answer.source.push(ANALYTICAL);
    if (!found) {
      const summary = `${operator.kind}: a size is negative or too large`;
      answer.errors.push({ index, code: grpc.status.OUT_OF_RANGE, diagnostic: { severity: ERROR, summary } });
    }
  }
  if (next !== dims.length) throw badField('dims', 'they go on after the questions end');
  return answer;
}

function exportTable(call) {
  call.emit('error', { code: grpc.status.UNIMPLEMENTED, details: 'no tables are exported here' });
}

const server = new grpc.Server({ 'grpc.max_receive_message_length': MAX_BYTES });
server.addService(hermes.hw.v1.HardwareModelService.service, {
  Describe: unary(describe),
  ValidateConfig: unary(({ config_json: text }) => ({
    diagnostics: check(text).wrong.map((item) => ({ severity: ERROR, ...item })),
  })),
  OpenSession: unary(openSession),
  Estimate: unary(estimate),
  ExportTable: exportTable,
  CloseSession: unary(({ session_id: name }) => {
    sessions.delete(name);
    return {};
  }),
});
server.addService(standard.health.v1.Health.service, {
  Check: unary(({ service }) => {
    if (service === '' || service === SERVICE) return { status: SERVING };
    throw new Refusal(grpc.status.NOT_FOUND, `there is no ${service} here`);
  }),
});

const address = process.env.HERMES_HW_ENDPOINT;
if (!address) {
  console.error('A hardware service of HERMES. Name its command in a scenario, or say where: HERMES_HW_ENDPOINT=unix:PATH');
  process.exit(2);
}
const protocols = (process.env.HERMES_HW_PROTOCOLS || '1').split(',');
if (!protocols.includes('1')) {
  console.error(`the host speaks protocol ${protocols.join(', ')}, this service 1: update one of them`);
  process.exit(3);
}
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) {
    console.error(String(error));
    process.exit(1);
  }
});
const end = () => server.tryShutdown(() => process.exit(0));
process.on('SIGTERM', end);
process.on('SIGINT', end);
if (process.env.HERMES_HW_COOKIE) {
  process.stdin.on('end', end).resume(); // the host is gone
}
