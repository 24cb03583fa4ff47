// As much of ONNX's protobuf as the graphs here need, written by hand: no exporter, no Python.

const elementTypes = { float32: 1, int32: 6, int64: 7 }

function varint(value) {
  const bytes = []
  let rest = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(rest & 127n)
    rest >>= 7n
    bytes.push(rest ? low | 128 : low)
  } while (rest)
  return Buffer.from(bytes)
}

const integer = (field, value) => Buffer.concat([varint(field << 3), varint(value)])
const bytes = (field, value) => {
  const body = typeof value === 'string' ? Buffer.from(value) : value
  return Buffer.concat([varint((field << 3) | 2), varint(body.length), body])
}
const float = (field, value) => {
  const body = Buffer.alloc(4)
  body.writeFloatLE(value)
  return Buffer.concat([varint((field << 3) | 5), body])
}

/** A graph's input or output. */
export function value(name, dims, type = 'float32') {
  const shape = Buffer.concat(dims.map((d) => bytes(1, integer(1, d))))
  const tensorType = Buffer.concat([integer(1, elementTypes[type]), bytes(2, shape)])
  return Buffer.concat([bytes(1, name), bytes(2, bytes(1, tensorType))])
}

/** A constant: a Float32Array, or numbers for int64. */
export function constant(name, dims, values) {
  const type = values instanceof Float32Array ? 'float32' : 'int64'
  const data = type === 'int64' ? BigInt64Array.from(values, BigInt) : values
  return Buffer.concat([
    ...dims.map((d) => integer(1, d)),
    integer(2, elementTypes[type]),
    bytes(8, name),
    bytes(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
  ])
}

/** Attributes are whole numbers, lists of them, strings, { float } or { graph }. */
function attribute(name, setting) {
  const [field, type] =
    typeof setting === 'string'
      ? [bytes(4, setting), 3]
      : typeof setting === 'number'
        ? [integer(3, setting), 2]
        : Array.isArray(setting)
          ? [Buffer.concat(setting.map((number) => integer(8, number))), 7]
          : setting.graph
            ? [bytes(6, setting.graph), 5]
            : [float(2, setting.float), 1]
  return Buffer.concat([bytes(1, name), field, integer(20, type)])
}

/** `domain` is com.microsoft for onnxruntime's own ops. */
export function node(type, inputs, outputs, attributes = {}, domain = '') {
  return Buffer.concat([
    ...inputs.map((name) => bytes(1, name)),
    ...outputs.map((name) => bytes(2, name)),
    bytes(4, type),
    ...Object.entries(attributes).map(([name, setting]) => bytes(5, attribute(name, setting))),
    ...(domain ? [bytes(7, domain)] : []),
  ])
}

export function graph(nodes, constants, inputs, outputs) {
  return Buffer.concat([
    ...nodes.map((n) => bytes(1, n)),
    bytes(2, 'peer'),
    ...constants.map((c) => bytes(5, c)),
    ...inputs.map((v) => bytes(11, v)),
    ...outputs.map((v) => bytes(12, v)),
  ])
}

export function model(g) {
  const own = Buffer.concat([bytes(1, 'com.microsoft'), integer(2, 1)])
  return Buffer.concat([integer(1, 10), bytes(7, g), bytes(8, integer(2, 21)), bytes(8, own)])
}
