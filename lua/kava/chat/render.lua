-- Rendering chat templates: what each node of the tree (kava.chat.parser) does. A template sees the values it is given and nothing
-- else: no Lua value, no file, no environment; lists and dicts cannot be changed. Every step and every byte made is charged to a
-- budget (value.charge), so that no template runs or grows without end.
local value = require "kava.chat.value"
local strings = require "kava.chat.strings"
local library = require "kava.chat.filters"
local kind, fail, charge, none = value.kind, value.fail, value.charge, value.none

local MAX_CALLS, MAX_RANGE = 100, 100000 -- macros within one another; what range() may give (Jinja's sandbox's bound)

local evaluate, execute = {}, {}

-- A scope is { vars, parent }; `state` is what one rendering shares: out (the pieces written), line, calls.
local function new_scope(parent) return { vars = {}, parent = parent } end

local function eval(node, scope, state)
  charge(1)
  state.line = node.line
  return evaluate[node.type](node, scope, state)
end

-- Runs nodes -> "break" or "continue" where the loop around them is to be left or gone on with.
local function run(body, scope, state)
  for _, node in ipairs(body) do
    charge(1)
    state.line = node.line
    local control = execute[node.type](node, scope, state)
    if control then return control end
  end
end

local function write(state, text)
  charge(#text + 1)
  state.out[#state.out + 1] = text
  state.size = state.size + #text
end

-- What f(...) writes, as a string.
local function capture(state, f, ...)
  local out, size = state.out, state.size
  state.out, state.size = {}, 0
  f(...)
  local text = table.concat(state.out)
  state.out, state.size = out, size
  return text
end
local function captured(body, scope, state) return capture(state, run, body, scope, state) end

-- --------------------------------------------------------------------------------------------------------------------- members

local function object_name(v)
  if v == none then return "None" end
  return value.type_name(v) .. " object"
end

local function need_defined(v)
  if kind(v) == "undefined" then fail(v.message) end
end

local changing = { append = true, extend = true, insert = true, pop = true, remove = true, clear = true, update = true, setdefault = true,
  popitem = true, sort = true, reverse = true, add = true }

local list_methods = {
  index = function(v, args)
    value.argument(args, nil, 1, "value")
    for i, item in ipairs(v.items) do
      if value.equal(item, args[1]) then return i - 1 end
    end
    fail("%s is not in list", value.repr(args[1]))
  end,
  count = function(v, args)
    local n = 0
    value.argument(args, nil, 1, "value")
    for _, item in ipairs(v.items) do
      if value.equal(item, args[1]) then n = n + 1 end
    end
    return n
  end,
}
local function view(name, items) -- a list that prints as what it is
  local list = value.list(items)
  list.view = name
  return list
end
local dict_methods = {
  items = function(v) return view("dict_items", library.filters.items(v).items) end,
  keys = function(v) return view("dict_keys", table.move(v.keys, 1, #v.keys, 1, {})) end,
  values = function(v)
    local list = {}
    for i, key in ipairs(v.keys) do list[i] = v.map[key] end
    return view("dict_values", list)
  end,
  get = function(v, args, named)
    local found = v.map[value.argument(args, nil, 1, "key")]
    if found == nil then return value.argument(args, named, 2, "default", none) end
    return found
  end,
  copy = function(v)
    local new = value.dict()
    for _, key in ipairs(v.keys) do value.set(new, key, v.map[key]) end
    return new
  end,
}

local function bound(method, v)
  return function(args, named)
    value.charge_text(v)
    return method(v, args, named)
  end
end

-- v.name without looking among the keys; nil: there is none.
local function attribute(v, name)
  local k = kind(v)
  if k == "string" then
    local method = strings[name]
    return method and name ~= "percent" and name ~= "whole_argument" and bound(method, v) or nil
  elseif k == "list" then
    if v.fields and v.fields[name] then return v.items[v.fields[name]] end
    if list_methods[name] then return bound(list_methods[name], v) end
  elseif k == "dict" then
    if dict_methods[name] then return bound(dict_methods[name], v) end
  elseif k == "namespace" or k == "loop" or k == "macro" then
    return v.attributes[name]
  end
  if (k == "list" or k == "dict") and changing[name] then
    return function() fail("%s.%s: lists and dicts cannot be changed in a template", value.type_name(v), name) end
  end
  return nil
end

-- v[key] without looking among the attributes; nil: there is none.
local function element(v, key)
  local k = kind(v)
  if k == "dict" then
    if kind(key) == "undefined" or kind(key) == "list" or kind(key) == "dict" then return nil end
    return v.map[key]
  elseif k == "list" or k == "string" then
    if type(key) == "boolean" then key = key and 1 or 0 end
    if math.type(key) ~= "integer" then return nil end
    local items = k == "list" and v.items or value.characters(v)
    return items[key >= 0 and key + 1 or #items + key + 1]
  end
  return nil
end

local function missing(v, name)
  if type(name) == "string" then return value.undefined(("'%s' has no attribute '%s'"):format(object_name(v), name)) end
  return value.undefined(("%s has no element %s"):format(object_name(v), value.repr(name)))
end

local function member(v, name)
  need_defined(v)
  local found = attribute(v, name)
  if found == nil then found = element(v, name) end
  return found == nil and missing(v, name) or found
end

local function item(v, key)
  need_defined(v)
  local found = element(v, key)
  if found == nil and type(key) == "string" then found = attribute(v, key) end
  return found == nil and missing(v, key) or found
end

-- ------------------------------------------------------------------------------------------------------------------- operators

local function checked(result, exact) -- Python's integers do not wrap: what would is refused
  if math.type(result) == "integer" and math.abs(exact) > 9.2e18 then fail "an integer that is too large" end
  return result
end

local function joined(a, b)
  return value.list(table.move(b.items, 1, #b.items, #a.items + 1, table.move(a.items, 1, #a.items, 1, {})), a.tuple)
end

local function repeated(v, times)
  times = math.max(0, times)
  if type(v) == "string" then
    charge(times) -- so few that the product is one
    charge(#v * times)
    return v:rep(times)
  end
  charge(times)
  local items = {}
  for _ = 1, times do
    charge(#v.items)
    table.move(v.items, 1, #v.items, #items + 1, items)
  end
  return value.list(items, v.tuple)
end

local function need_nonzero(y) if y == 0 then fail "division by zero" end end

local arithmetic = {
  ["+"] = function(x, y) return checked(x + y, x + 0.0 + y) end,
  ["-"] = function(x, y) return checked(x - y, x + 0.0 - y) end,
  ["*"] = function(x, y) return checked(x * y, (x + 0.0) * y) end,
  ["/"] = function(x, y) need_nonzero(y) return x / y end,
  ["//"] = function(x, y) need_nonzero(y) return x // y end,
  ["%"] = function(x, y) need_nonzero(y) return x % y end,
  ["**"] = function(x, y)
    local power = (x + 0.0) ^ y
    if math.type(x) ~= "integer" or math.type(y) ~= "integer" or y < 0 then return power end
    local result = 1
    if math.abs(power) > 9.2e18 then fail "an integer that is too large" end
    for _ = 1, (x == 0 or x == 1) and math.min(y, 1) or x == -1 and y % 2 or y do result = result * x end
    return result
  end,
}

local function binary(op, a, b)
  need_defined(a)
  need_defined(b)
  local x, y = value.as_number(a), value.as_number(b)
  if x and y then return arithmetic[op](x, y) end
  local ka, kb = kind(a), kind(b)
  if op == "+" and ka == "string" and kb == "string" then
    charge(#a + #b)
    return a .. b
  elseif op == "+" and ka == "list" and kb == "list" and a.tuple == b.tuple then return joined(a, b)
  elseif op == "*" and (ka == "string" or ka == "list") and math.type(y) == "integer" then return repeated(a, y)
  elseif op == "*" and (kb == "string" or kb == "list") and math.type(x) == "integer" then return repeated(b, x)
  elseif op == "%" and ka == "string" then return strings.percent(a, b) end
  if op == "+" and ka == "string" then fail("can only concatenate str (not \"%s\") to str", value.type_name(b)) end
  fail("unsupported operand type(s) for %s: '%s' and '%s'", op, value.type_name(a), value.type_name(b))
end

-- ----------------------------------------------------------------------------------------------------------------- calls

local context = { member = member, item = item, add = function(a, b) return binary("+", a, b) end }
function context.filter(name)
  local filter = type(name) == "string" and library.filters[name]
  return filter or fail("there is no filter named '%s'", value.text(name))
end
function context.test(name)
  local test = type(name) == "string" and library.tests[name]
  return test or fail("there is no test named '%s'", value.text(name))
end

local function arguments_of(node, scope, state)
  local args, named = {}, {}
  for i, argument in ipairs(node.args) do args[i] = eval(argument, scope, state) end
  if node.rest_list then
    for _, given in ipairs(value.items(eval(node.rest_list, scope, state))) do args[#args + 1] = given end
  end
  for _, argument in ipairs(node.named) do named[argument.name] = eval(argument.of, scope, state) end
  if node.rest_dict then
    local dict = eval(node.rest_dict, scope, state)
    if kind(dict) ~= "dict" then fail("argument after ** must be a mapping, not %s", value.type_name(dict)) end
    for _, key in ipairs(dict.keys) do named[value.text(key)] = dict.map[key] end
  end
  return args, named
end

local function call(f, args, named)
  local k = kind(f)
  if k == "function" then return f(args, named) end
  if k == "macro" or k == "loop" then return f.call(args, named) end
  need_defined(f)
  fail("'%s' object is not callable", value.type_name(f))
end
context.call = call

-- A macro, also the body of a call block: its parameters in a scope of their own.
local function make_macro(name, node, scope, state)
  local attributes = { name = name }
  local function run_macro(args, named)
    local inner, rest, seen = new_scope(scope), {}, {}
    state.calls = state.calls + 1
    if state.calls > MAX_CALLS then fail("more than %d macros within one another", MAX_CALLS) end
    local line = state.line
    for i, parameter in ipairs(node.parameters) do
      local given = args[i]
      if given == nil then given = named and named[parameter.name] end
      if given == nil and parameter.default then given = eval(parameter.default, inner, state) end
      if given == nil then given = value.undefined(("parameter '%s' was not provided"):format(parameter.name)) end
      inner.vars[parameter.name], seen[parameter.name] = given, true
    end
    for i = #node.parameters + 1, #args do rest[#rest + 1] = args[i] end
    if #rest > 0 and not node.names.varargs then
      fail("macro '%s' takes not more than %d argument(s)", name, #node.parameters)
    end
    inner.vars.varargs = value.list(rest, true)
    local extra = value.dict()
    for key, given in pairs(named or {}) do
      if key == "caller" and node.names.caller then inner.vars.caller = given
      elseif not seen[key] then
        if not node.names.kwargs then fail("macro '%s' takes no keyword argument '%s'", name, key) end
        value.set(extra, key, given)
      end
    end
    inner.vars.kwargs = extra
    local text = captured(node.body, inner, state)
    state.calls, state.line = state.calls - 1, line
    return text
  end
  return { kind = "macro", call = run_macro, attributes = attributes }
end

-- ----------------------------------------------------------------------------------------------------------------- expressions

function evaluate.constant(node) return node.value end

function evaluate.name(node, scope, state)
  local at = scope
  while at do
    local found = at.vars[node.name]
    if found ~= nil then return found end
    at = at.parent
  end
  local found = state.globals[node.name]
  if found ~= nil then return found end
  return value.undefined(("'%s' is undefined"):format(node.name))
end

function evaluate.list(node, scope, state)
  local items = {}
  for i, one in ipairs(node.items) do items[i] = eval(one, scope, state) end
  return value.list(items, node.tuple)
end

function evaluate.dict(node, scope, state)
  local dict = value.dict()
  for _, pair in ipairs(node.items) do
    local key = eval(pair.key, scope, state)
    value.set(dict, key, eval(pair.item, scope, state))
  end
  return dict
end

function evaluate.captured(node) return node.text end
function evaluate.binary(node, scope, state)
  local left, right = eval(node.left, scope, state), eval(node.right, scope, state)
  state.line = node.line
  return binary(node.op, left, right)
end

function evaluate.concat(node, scope, state)
  local parts = {}
  for i, part in ipairs(node.parts) do
    parts[i] = value.text(eval(part, scope, state))
    charge(#parts[i])
  end
  return table.concat(parts)
end

function evaluate.unary(node, scope, state)
  local operand = eval(node.of, scope, state)
  need_defined(operand)
  local number = value.as_number(operand)
  if not number then fail("bad operand type for unary %s: '%s'", node.op, value.type_name(operand)) end
  return node.op == "-" and -number or number
end

evaluate["not"] = function(node, scope, state) return not value.truth(eval(node.of, scope, state)) end
evaluate["and"] = function(node, scope, state)
  local left = eval(node.left, scope, state)
  if not value.truth(left) then return left end
  return eval(node.right, scope, state)
end
evaluate["or"] = function(node, scope, state)
  local left = eval(node.left, scope, state)
  if value.truth(left) then return left end
  return eval(node.right, scope, state)
end

function evaluate.conditional(node, scope, state)
  if value.truth(eval(node.test, scope, state)) then return eval(node.yes, scope, state) end
  if node.no then return eval(node.no, scope, state) end
  return value.undefined "the inline if-expression evaluated to false and no else section was defined."
end

local compare = {
  ["=="] = value.equal,
  ["!="] = function(a, b) return not value.equal(a, b) end,
  ["<"] = value.less,
  [">"] = function(a, b) return value.less(b, a) end,
  ["<="] = function(a, b) return value.equal(a, b) or value.less(a, b) end,
  [">="] = function(a, b) return value.equal(a, b) or value.less(b, a) end,
  ["in"] = function(a, b) return value.contains(b, a) end,
  ["not in"] = function(a, b) return not value.contains(b, a) end,
}

function evaluate.compare(node, scope, state)
  local left = eval(node.first, scope, state)
  for _, step in ipairs(node.rest) do
    local right = eval(step.of, scope, state)
    state.line = node.line
    if not compare[step.op](left, right) then return false end
    left = right
  end
  return true
end

function evaluate.member(node, scope, state)
  local of = eval(node.of, scope, state)
  state.line = node.line
  return member(of, node.name)
end

function evaluate.item(node, scope, state)
  local of, key = eval(node.of, scope, state), eval(node.key, scope, state)
  state.line = node.line
  return item(of, key)
end

function evaluate.slice(node, scope, state)
  local of = eval(node.of, scope, state)
  need_defined(of)
  local parts = {}
  for i, name in ipairs { "from", "to", "step" } do
    local part = node[name] and eval(node[name], scope, state)
    if part ~= nil and part ~= none then
      parts[i] = math.type(part) == "integer" and part or fail "slice indices must be integers or None"
    end
  end
  if kind(of) ~= "list" and kind(of) ~= "string" then return missing(of, "slice") end
  local items, out, step = value.items(of), {}, parts[3] or 1
  local count = #items
  if step == 0 then fail "slice step cannot be zero" end
  local function place(i, low, high) -- as Python clips indices
    if i < 0 then i = i + count end
    return math.max(low, math.min(high, i))
  end
  local from, to
  if step > 0 then
    from, to = parts[1] and place(parts[1], 0, count) or 0, parts[2] and place(parts[2], 0, count) or count
    for i = from, to - 1, step do out[#out + 1] = items[i + 1] end
  else
    from, to = parts[1] and place(parts[1], -1, count - 1) or count - 1, parts[2] and place(parts[2], -1, count - 1) or -1
    for i = from, to + 1, step do out[#out + 1] = items[i + 1] end
  end
  charge(#out)
  return type(of) == "string" and table.concat(out) or value.list(out, of.tuple)
end

function evaluate.call(node, scope, state)
  local f = eval(node.of, scope, state)
  local args, named = arguments_of(node.arguments, scope, state)
  state.line = node.line
  return call(f, args, named)
end

function evaluate.filter(node, scope, state)
  local filter = context.filter(node.name)
  local of = eval(node.of, scope, state)
  local args, named = arguments_of(node.arguments, scope, state)
  state.line = node.line
  value.charge_text(of)
  return filter(of, args, named, context)
end

function evaluate.test(node, scope, state)
  local test = context.test(node.name)
  local of = eval(node.of, scope, state)
  local args = arguments_of(node.arguments, scope, state)
  state.line = node.line
  if #args > 0 and library.unary[node.name] then fail("the test '%s' takes no argument", node.name) end
  value.charge_text(of)
  return test(of, args)
end

-- ------------------------------------------------------------------------------------------------------------------ statements

function execute.data(node, _, state) write(state, node.text) end
function execute.output(node, scope, state) write(state, value.text(eval(node.of, scope, state))) end

local function assign(target, given, scope, state)
  if target.type == "name" then
    scope.vars[target.name] = given
  elseif target.type == "member" then
    local space = eval(target.of, scope, state)
    if kind(space) ~= "namespace" then fail "cannot assign attribute on non-namespace object" end
    space.attributes[target.name] = given
  else
    local items = value.items(given)
    if #items ~= #target.items then
      fail("%s values to unpack (expected %d, got %d)", #items < #target.items and "not enough" or "too many", #target.items, #items)
    end
    for i, one in ipairs(target.items) do assign(one, items[i], scope, state) end
  end
end

function execute.set(node, scope, state) assign(node.target, eval(node.of, scope, state), scope, state) end

-- The innermost operand of a chain of filters is what was captured.
local function filtered(filter, text, scope, state)
  local bottom = filter
  while bottom.of.type == "filter" do bottom = bottom.of end
  local holder = bottom.of
  bottom.of = { type = "captured", line = filter.line, text = text }
  local ok, result = pcall(eval, filter, scope, state)
  bottom.of = holder
  if not ok then error(result, 0) end
  return result
end

function execute.set_block(node, scope, state)
  local result = captured(node.body, new_scope(scope), state)
  if node.filter then result = filtered(node.filter, result, scope, state) end
  assign(node.target, result, scope, state)
end
function execute.filter_block(node, scope, state)
  write(state, value.text(filtered(node.filter, captured(node.body, new_scope(scope), state), scope, state)))
end

execute["if"] = function(node, scope, state)
  for _, branch in ipairs(node.branches) do
    if value.truth(eval(branch.test, scope, state)) then return run(branch.body, scope, state) end
  end
  return node.otherwise and run(node.otherwise, scope, state)
end

local function make_loop(items, depth)
  local loop = { kind = "loop", attributes = { length = #items, depth = depth + 1, depth0 = depth } }
  local a, changed = loop.attributes, nil
  function a.cycle(args)
    if #args == 0 then fail "no items for cycling given" end
    return args[a.index0 % #args + 1]
  end
  function a.changed(args)
    local now = value.list(args, true)
    local is_new = changed == nil or not value.equal(changed, now)
    changed = now
    return is_new
  end
  function loop.at(i)
    a.index, a.index0, a.revindex, a.revindex0 = i, i - 1, #items - i + 1, #items - i
    a.first, a.last = i == 1, i == #items
    a.previtem = items[i - 1] == nil and value.undefined "there is no previous item" or items[i - 1]
    a.nextitem = items[i + 1] == nil and value.undefined "there is no next item" or items[i + 1]
  end
  return loop
end

local function run_loop(node, of, scope, state, depth)
  local items = value.items(of)
  if node.test then
    local kept = {}
    for _, one in ipairs(items) do
      local inner = new_scope(scope)
      assign(node.target, one, inner, state)
      if value.truth(eval(node.test, inner, state)) then kept[#kept + 1] = one end
    end
    items = kept
  end
  if #items == 0 then return node.otherwise and run(node.otherwise, new_scope(scope), state) end
  local loop = make_loop(items, depth)
  if node.recursive then
    function loop.call(args)
      state.calls = state.calls + 1
      if state.calls > MAX_CALLS then fail("more than %d loops within one another", MAX_CALLS) end
      local text = capture(state, run_loop, node, args[1] == nil and none or args[1], scope, state, depth + 1)
      state.calls = state.calls - 1
      return text
    end
  else
    function loop.call() fail "The loop must have the 'recursive' marker to be called recursively." end
  end
  for i, one in ipairs(items) do
    local inner = new_scope(scope)
    loop.at(i)
    inner.vars.loop = loop
    assign(node.target, one, inner, state)
    if run(node.body, inner, state) == "break" then break end
  end
end

execute["for"] = function(node, scope, state)
  local of = eval(node.of, scope, state)
  return run_loop(node, of, scope, state, 0)
end
execute["break"] = function() return "break" end
execute["continue"] = function() return "continue" end

function execute.macro(node, scope, state) scope.vars[node.name] = make_macro(node.name, node, scope, state) end

function execute.call_block(node, scope, state)
  local f = eval(node.call.of, scope, state)
  local args, named = arguments_of(node.call.arguments, scope, state)
  named.caller = make_macro("caller", node, scope, state)
  state.line = node.line
  write(state, value.text(call(f, args, named)))
end

execute["with"] = function(node, scope, state)
  local inner = new_scope(scope)
  for _, one in ipairs(node.assignments) do assign(one.target, eval(one.of, scope, state), inner, state) end
  return run(node.body, inner, state)
end

function execute.generation(node, scope, state)
  local from = state.size
  local text = captured(node.body, new_scope(scope), state)
  state.generated[#state.generated + 1] = { from + 1, from + #text }
  write(state, text)
end

-- --------------------------------------------------------------------------------------------------------------------- globals

local globals = {}

function globals.range(args)
  local from, to, step = 0, args[1], args[3] or 1
  if args[2] ~= nil then from, to = args[1], args[2] end
  for _, n in ipairs { from, to or false, step } do
    if math.type(n) ~= "integer" then fail("'%s' object cannot be interpreted as an integer", value.type_name(n)) end
  end
  if step == 0 then fail "range() arg 3 must not be zero" end
  local count = math.max(0, (to - from + step - (step > 0 and 1 or -1)) // step)
  if count > MAX_RANGE then fail("range too big: more than %d items", MAX_RANGE) end
  local items = {}
  for i = 1, count do items[i] = from + (i - 1) * step end
  return value.list(items)
end

function globals.dict(args, named)
  local dict = value.dict()
  if #args > 1 then fail("dict expected at most 1 argument, got %d", #args) end
  if args[1] ~= nil then
    local pairs_of = kind(args[1]) == "dict" and library.filters.items(args[1]) or args[1]
    for _, one in ipairs(value.items(pairs_of)) do value.set(dict, value.items(one)[1], value.items(one)[2]) end
  end
  local names = {}
  for name in pairs(named) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do value.set(dict, name, named[name]) end
  return dict
end

function globals.namespace(args, named)
  local attributes = {}
  if args[1] ~= nil then need_defined(args[1]) end
  for _, key in ipairs(args[1] ~= nil and value.items(args[1]) or {}) do attributes[key] = element(args[1], key) end
  for name, given in pairs(named) do attributes[name] = given end
  return { kind = "namespace", attributes = attributes }
end

function globals.joiner(args)
  local used, between = false, args[1] == nil and ", " or args[1]
  return function()
    if used then return between end
    used = true
    return ""
  end
end

function globals.cycler(args)
  local at = 0
  local cycler = { kind = "namespace", attributes = { current = args[1] } }
  cycler.attributes.next = function()
    local now = args[at % #args + 1]
    at = at + 1
    cycler.attributes.current = args[at % #args + 1]
    return now
  end
  cycler.attributes.reset = function()
    at, cycler.attributes.current = 0, args[1]
    return none
  end
  return cycler
end

function globals.raise_exception(args) fail(value.text(args[1] == nil and "" or args[1])) end

-- The local time as C's strftime writes it, with glibc's "-" (no leading zero).
local function strftime(format, now)
  charge(#format)
  return (format:gsub("%%(%-?)([%w%%])", function(plain, letter)
    if not letter:find "[aAbBcCdDeFgGHIjklmMnprRsStTuUVwWxXyYzZ%%]" then fail("the time format '%%%s' is not known", letter) end
    local text
    if letter == "s" then text = tostring(now)
    elseif letter == "k" or letter == "l" then text = ("%2d"):format(tonumber(os.date(letter == "k" and "%H" or "%I", now)))
    else text = os.date("%" .. letter, now) end
    return plain == "" and text or (text:gsub("^[0 ]+(%w)", "%1"))
  end))
end

--- Renders a tree. variables: name -> template value; options: now (a time for strftime_now), budget. -> text, list of {first, last}
--- bytes within {% generation %}. Raises value.Error.
local function render(tree, variables, options)
  local state = { out = {}, size = 0, line = 1, calls = 0, generated = {}, globals = setmetatable({}, { __index = globals }) }
  state.globals.strftime_now = function(args) return strftime(value.text(args[1]), options.now or os.time()) end
  local ok, problem = pcall(run, tree, { vars = variables }, state)
  if ok then return table.concat(state.out), state.generated end
  if type(problem) == "string" then -- something was given another kind of argument than it can use
    local what = problem:match "^[^\n]*kava/chat/%a+%.lua:%d+: (.*)"
    if what then problem = setmetatable({ message = "a wrong argument: " .. what }, value.Error) end
  end
  if getmetatable(problem) == value.Error then problem.line = problem.line or state.line end
  error(problem, 0)
end

return { render = render }
