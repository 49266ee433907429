/**
 * ONNX models made in code: a graph of a few operators as the bytes that InferenceSession.create takes.
 */
import proto from "onnx-proto";

const { AttributeProto, ModelProto, TensorProto } = proto.onnx;
const FLOAT = TensorProto.DataType.FLOAT;
const INT32 = TensorProto.DataType.INT32;
const INT64 = TensorProto.DataType.INT64;

/** Initializers. */
export const floats = (name, dims, values) => ({ name, dims, dataType: FLOAT, floatData: [...values] });
export const int32s = (name, values) => ({ name, dims: [values.length], dataType: INT32, int32Data: values });
export const int64s = (name, values) => ({ name, dims: [values.length], dataType: INT64, int64Data: values });

/** One operator. Attributes: integers, and lists of integers. `domain` "" is ONNX's own, "com.microsoft" onnxruntime's. */
export function node(opType, input, output, attributes = {}, domain = "") {
  const attribute = Object.entries(attributes).map(([name, value]) =>
    Array.isArray(value)
      ? { name, type: AttributeProto.AttributeType.INTS, ints: value }
      : { name, type: AttributeProto.AttributeType.INT, i: value },
  );
  return { opType, input, output, attribute, domain };
}

/** The bytes of a model of f32 inputs and outputs { name: dims }; the outputs named in `integers` are int64. */
export function modelOf({ nodes, inputs, outputs, initializers = [], integers = [] }) {
  const value = ([name, dims]) => ({
    name,
    type: {
      tensorType: {
        elemType: integers.includes(name) ? INT64 : FLOAT,
        shape: { dim: dims.map((dimValue) => ({ dimValue })) },
      },
    },
  });
  const model = {
    irVersion: 8,
    opsetImport: [
      { domain: "", version: 17 },
      { domain: "com.microsoft", version: 1 },
    ],
    graph: {
      name: "work",
      node: nodes,
      input: Object.entries(inputs).map(value),
      output: Object.entries(outputs).map(value),
      initializer: initializers,
    },
  };
  return ModelProto.encode(ModelProto.fromObject(model)).finish();
}
