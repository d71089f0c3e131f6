"""What jinja2 makes of chat templates with transformers' settings.

usage: make_templates.py OUT.jsonl [TOKENIZERS FOLDER]     (the golden file: make_templates.py spec/golden/templates.jsonl)
       needs: pip install jinja2

A line is {"name", "template" (or "tokenizer": where the template is), "context": JSON as a string, whose keys' order counts,
"out"} or with "error": true where jinja2 refuses the template or it raises.
"""
import json, os, sys
from datetime import datetime
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
import jinja2.nodes


class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)
    def _support(self, caller): return caller()


def raise_exception(message): raise TemplateError(message)
def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime(2024, 7, 6, 5, 4, 3).strftime(f)

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The \"weather\" in a city <now>; ünïcode.",
          "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "where"}, "days": {"type": "integer", "enum": [1, 2.5, None, True]}},
                         "required": ["city"]}}}, {"type": "function", "function": {"name": "noop", "parameters": {}}}]
USER, ANSWER = {"role": "user", "content": "  Hi — what's 2+2? 你好\n"}, {"role": "assistant", "content": "It is 4. "}
SYSTEM = {"role": "system", "content": "You are terse."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}}]}
THINK = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", }
REASON = {"role": "assistant", "content": "Yes.", "reasoning_content": "\nthinking\n"}
TOOL = {"role": "tool", "content": "sunny", "name": "get_weather", "tool_call_id": "c1"}
CHATS = [[USER], [SYSTEM, USER, ANSWER, USER], [USER, ANSWER, USER, THINK], [SYSTEM, USER, CALL, TOOL, TOOL, REASON, USER], [USER, USER], [],
         [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}]}], [{"content": "no role"}]]
CONTEXTS = [{"messages": m, "add_generation_prompt": i % 2 == 0, "bos_token": "<s>", "eos_token": "</s>", **extra}
            for i, m in enumerate(CHATS) for extra in ({}, {"tools": TOOLS, "enable_thinking": False})]

# In the shapes of the templates that models come with.
CHAT_TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "inst": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "turns": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "headers and tools": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\n\nToday Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\n\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' + arg_val | string + '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
        {{- tool_call.arguments | tojson }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
""",
    "macros and generation": """{% macro turn(role, content, end='<end>') -%}
<{{ role }}>{{ content }}{{ end }}
{%- endmacro %}
{% for message in messages if message.role is defined %}
  {% if message.role == 'assistant' %}
    {% generation %}{{ turn('model', message.content | trim) }}{% endgeneration %}
  {% elif message.role == 'tool' %}
    {% continue %}
  {% else %}
    {{ turn(role=message.role, content=message.content) }}
  {% endif %}
  {% if loop.index > 5 %}{% break %}{% endif %}
{% else %}
nobody spoke
{% endfor %}
""",
}

DATA = {"n": 7, "f": 2.5, "t": True, "z": None, "s": "Hello, Wörld", "empty": "", "l": [3, 1, 2, "b", "a"], "nums": [5, 3, 9, 3], "d": {"b": 1, "a": [1, 2], "c": {"x": None}},
        "users": [{"name": "bob", "age": 30, "tags": ["x"]}, {"name": "Al", "age": 25}, {"name": "cy", "age": 30}], "ws": "  a  b\n c \t", "big": 12345678901234, "neg": -3,
        "html": "<a href=\"x\">&'</a>", "tiny": 1e-7, "huge": 1e22, "whole": 100.0}
EXPRESSIONS = r"""
n + 1|n - f|n * 2|n / 2|n // 2|n % 4|-n // 2|-n % 4|2 ** 10|2 ** -1|-n|+n|n ~ s ~ none|1 + 2 * 3 - 4 / 2|(1, 2)|(1,)|()|[1, [2, 'x']]|{'a': 1, 'b': [True, None]}
{1: 'x', 'y': 2.0}|'it\'s' ~ "q\"q" ~ '\n\t\\ \x41 \u00e9'|'a' 'b'|1_000|0x1f|1e3|1.5e-3|tiny|huge|whole|big * 3|0.1 + 0.2|1 / 3|100000000000000000.0|true|True|none is none
n == 7|n != 7.0|n < 8 <= 9|n in nums|'ell' in s|'x' not in d|'b' in d|1 == true|[1, 2] == [1, 2.0]|'a' < 'b'|not t|t and n|z or s|t and z or 'd'|n if t else 0|n if z|'y' if undefined_thing else 'n'
undefined_thing|undefined_thing is defined|d.nope is undefined|d.c.x is none|d['a'][0]|d.a[-1]|l[1:3]|l[::-1]|l[-2:]|l[:10:2]|s[0]|s[-1]|s[7:]|s[::-1]|nums[5]|s[100]|d.items()|d.keys() | list|d.values() | list
d.get('b')|d.get('q')|d.get('q', 5)|s.upper()|s.lower()|s.split(', ')|ws.split()|'a,b,,c'.split(',')|'a,b,c'.split(',', 1)|'a,b,c'.rsplit(',', 1)|' a b  c '.rsplit(none, 1)|ws.strip()|ws.lstrip() ~ '|'|'xxhixx'.strip('x')
'abc'.startswith('ab')|'abc'.endswith(('x', 'c'))|s.replace('l', 'L')|s.replace('l', 'L', 1)|s.find('W')|s.find('zz')|s.index('o')|s.count('l')|'-'.join(['a', 'b'])|s.title()|'heLLo wOrld'.capitalize()|'abc'.isalpha()
'12'.isdigit()|' '.isspace()|'Ab'.swapcase()|'x'.center(5) ~ '|'|'x'.ljust(3) ~ '|'|'7'.zfill(3)|'a-b'.partition('-')|'x\ny\r\nz'.splitlines()|'{} and {x}'.format(1, x='y')|'%s=%05.1f %d%%' % ('a', 2.25, 7)|'abc'.removeprefix('a')|'abc'.removesuffix('bc')
s | length|l | count|d | length|s | upper|s | title|'foo-bar baz' | title|s | capitalize|ws | trim|s | replace('l', 'r')|nums | sort|nums | sort(reverse=true)|['b', 'A', 'c'] | sort|['b', 'A', 'c'] | sort(case_sensitive=true)|users | sort(attribute='age') | map(attribute='name') | list
users | map(attribute='name') | join(', ')|users | map(attribute='tags', default=[]) | list|users | selectattr('age', 'equalto', 30) | map(attribute='name') | list|users | rejectattr('tags') | list | length|users | selectattr('age', 'gt', 26) | list | length
nums | select('odd') | list|nums | reject('gt', 4) | list|['', 'a', none] | select | list|nums | unique | list|nums | min|nums | max|users | max(attribute='age')|nums | sum|users | sum(attribute='age')|nums | first|nums | last|[] | first|nums | reverse | list|s | reverse
nums | join('-')|users | join(', ', attribute='name')|nums | batch(3) | list|nums | batch(3, 0) | list|nums | slice(3) | list|users | groupby('age') | list | length|d | dictsort|d | dictsort(by='value', reverse=true) | length|d | items | list|undefined_thing | items | list
z | default('x')|undefined_thing | default('x')|empty | default('x')|empty | default('x', true)|undefined_thing | d('y')|'42' | int|'4x' | int(9)|'4.7' | int|3.99 | int|'2.5' | float|'q' | float|neg | abs|2.5 | round|3.5 | round|2.345 | round(2)|2.341 | round(2, 'ceil')|7 | round
d | tojson|users | tojson|s | tojson|'\u0001"\\\/é' | tojson|s | tojson(ensure_ascii=true)|d | tojson(indent=2)|[] | tojson(indent=2)|{} | tojson|d | tojson(sort_keys=true)|d | tojson(separators=(',', ':'))|[1.0, 1e22, true, none, 0.1] | tojson|(1, 'a') | tojson
html | e|html | escape|'a\nb\n\nc' | indent|'a\nb' | indent(2, true)|'a\n\nb' | indent(width='> ', blank=true)|'hello big world' | truncate(8)|'hello big world' | truncate(8, true, '…', 0)|'a b c' | wordcount|'%s!' | format('x')|['a', 'b'] | map('upper') | list|[1, 2] | string|'abc' | list|s | first|'x' | center(5) ~ '|'
n is number|n is string|s is string|l is sequence|l is iterable|d is mapping|t is boolean|n is integer|f is float|n is odd|n is even|n is divisibleby 7|n is divisibleby(2)|z is none|z is not none|n is eq 7|n is ge(8)|n is in nums|s is lower|'abc' is upper|n is sameas 7|range is callable|t is true|t is false
range(5) | list|range(2, 10, 3) | list|range(5, 0, -2) | list|dict(a=1, b=2)|[1, 2] + [3]|(1,) + (2,)|'ab' * 3|[0] * 3|'x' ~ 1.0|l | join|namespace(a=1).a|[[1, 2], [3]] | map('length') | list|[[1, 'a']] | map(attribute=0) | list|users[0].name.upper()|(users | first).name|users | map(attribute='name') | map('lower') | list | tojson
nums.index(9)|nums.count(3)|l[n - 7]|d['a' if t else 'b']|{'a': {'b': 2}}.a.b|not (t and false) or z|1 < 2 < 3 and not 3 > 4|-2 ** 2|2 ** 3 ** 2|n | abs + 1|'a' in ['a'] and 'b' not in ['a']|none == undefined_thing|'é' * 2 | length|'日本語'[1]|'日本語'.find('語')|'ß' | upper|'ÉA' | lower|'a' ~ 'b' | upper|[n, s][0]|s.nope is defined|('a', 'b') | join
""".strip().replace("\n", "|").replace("'|'", "\0").split("|")
EXPRESSIONS = [x.replace("\0", "'|'") for x in EXPRESSIONS]


def joined_filters(parts):
    """The split above also cut at filters; a part that begins with a space belongs to the one before."""
    out = []
    for p in parts:
        if out and p.startswith(" ") and out[-1].endswith(" "): out[-1] += "|" + p
        else: out.append(p)
    return out


SNIPPETS = [
    "  {% if t %}\n  yes\n  {% endif %}\n  end\n", "a\n    {%- if t -%}\n   b   \n {%- endif +%}\n\n c", "  {%+ if t %}x{% endif %}  \n  {{ n }}  \n", "{# a comment #}\nx {#- y -#}  z\n{#\nlines\n#}\nw",
    "{% raw %}{{ not }} {% this %}{% endraw %}\n{%- raw -%}  x  {%- endraw -%}  y", "{% for i in range(3) %}\n{{ i }}\n{% endfor %}\n", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for u in users if u.age > 26 %}{{ loop.index }}/{{ loop.length }} {{ u.name }}{{ ', ' if not loop.last }}{% else %}none{% endfor %}", "{% for x in [] %}{{ x }}{% else %}empty{% endfor %}",
    "{% for x in nums %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}", "{% for x in nums %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in nums %}{% if x == 9 %}{% break %}{% endif %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% set x = 1 %}{% for i in nums %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(total=0, list=[]) %}{% for i in nums %}{% set ns.total = ns.total + i %}{% set ns.list = ns.list + [i] %}{% endfor %}{{ ns.total }} {{ ns.list }}", "{% set a, b = 1, [2] %}{{ a }}{{ b }}{% set c = a, b %}{{ c }}",
    "{% set x %}block {{ n }}{% endset %}[{{ x }}]{% set y | upper | replace('B', 'c') %}b{{ s }}{% endset %}{{ y }}", "{% if z %}1{% elif n > 5 %}2{% else %}3{% endif %}{% set q = 1 %}{% if t %}{% set q = 2 %}{% endif %}{{ q }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=0) }} {{ m(1, 2, 3, 4, q=6) }} {{ m() }}", "{% macro outer() %}<{{ caller('x') }}>{% endmacro %}{% call(v) outer() %}in {{ v }} {{ n }}{% endcall %}",
    "{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(4) }}", "{% for x in [[1, [2]], 3] recursive %}{% if x is number %}{{ x }}{% else %}({{ loop(x) }}){% endif %}{{ loop.depth }}{% endfor %}",
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% for i in range(2) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{% endfor %}", "{{ n }}\n{{- s -}}\n x", "a\r\nb\r{{ n }}\n\n",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}", "{% set j = joiner('|') %}{% for x in nums %}{{ j() }}{{ x }}{% endfor %}", "{% if 'a' in d and d.a is iterable and d.a is not string %}ok{% endif %}", "{{ '}}' }}{{ {'a': {}} }}{{ '{%' }}",
    "{%for x in nums%}{{x}}{%endfor%}", "{% for x in nums -%}\n {{ x }}\n{%- endfor %}", "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %-d') }}", "{% set m = messages | default([]) %}{{ m | length }}", "x{{ '' }}\n\n", "{% if t %}\n\n  a\n{% endif %}\n\n", "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
    "{% set s2 = s[:5] if s is defined else '' %}{{ s2 }}", "{% generation %}x{{ n }}{% endgeneration %}\ny", "{{ [1, 2, 3][1:] | map('string') | join(',') }}", "{% set d2 = dict(d, z=1) %}{{ d2 }}{{ d }}", "{{ users | groupby('age') }}{% for age, list in users | groupby('age') %}{{ age }}:{{ list | length }} {% endfor %}",
    "{% for g in users | groupby('age') %}{{ g.grouper }}{{ g.list[0].name }}{% endfor %}", "{{ n is defined and n }}{{ nope is defined or 'x' }}", "{{ s | selectattr('x') | list }}", "{{ d.a is sequence }}{{ (1, 2)[0] }}{{ d['c']['x'] }}",
    # what is refused
    "{{ undefined_thing.x }}", "{{ d.c.y.z }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ s + none }}", "{{ undefined_thing + 'x' }}", "{{ n() }}", "{{ undefined_thing() }}", "{{ raise_exception('no: ' ~ n) }}", "{{ l.append(1) }}", "{{ d.update({'q': 1}) }}", "{% set d.x = 1 %}",
    "{% for x in n %}{% endfor %}", "{{ 1 / 0 }}", "{{ n | nofilter }}", "{{ n is notest }}", "{% if t %}", "{% endif %}", "{{ n", "{% for x in %}{% endfor %}", "{{ 'abc }}", "{% unknown %}", "{# open", "{{ (1 }}", "{% for a, b in nums %}{% endfor %}", "{{ 3 < 'a' }}", "{{ [1] < 2 }}", "{{ range(1000000) }}",
    "{{ users | tojson(1, 2, 3, 4, 5, 6) }}", "{{ undefined_thing | tojson }}", "{{ 'a'.index('z') }}", "{{ {[1]: 2} }}", "{{ -s }}", "{% set 1 = 2 %}", "{{ 1 if }}", "{% macro m() %}", "{{ n. }}", "{{ [1, 2 }}", "{% elif t %}", "{{ '%d' % 'x' }}", "{{ nums[1:2:0] }}",
]

lines = []


def add(name, template, context, tokenizer=None):
    line = {"name": name, "context": json.dumps(context, ensure_ascii=False)}
    line["tokenizer" if tokenizer else "template"] = tokenizer or template
    try: line["out"] = env.from_string(template).render(**context)
    except Exception as e: line["error"] = True; print(name, type(e).__name__, e, file=sys.stderr) if os.environ.get("SHOW") else None
    lines.append(line)


for name, template in CHAT_TEMPLATES.items():
    for c in CONTEXTS: add(name, template, c)
for e in joined_filters(EXPRESSIONS): add("expression", "{{ " + e.strip() + " }}", DATA)
for s in SNIPPETS: add("snippet", s, DATA)
if len(sys.argv) > 2:
    for n in ("qwen3", "llama3_1"):
        template = json.load(open(f"{sys.argv[2]}/{n}/tokenizer_config.json"))["chat_template"]
        for c in CONTEXTS: add(n, template, c, n)
    smollm2 = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    for c in CONTEXTS: add("smollm2", smollm2, c)
contexts = []
with open(sys.argv[1], "w") as f:
    for line in lines:
        if line["context"] not in contexts: contexts.append(line["context"])
        line["context"] = contexts.index(line["context"])
    for line in [{"contexts": contexts}] + lines: f.write(json.dumps(line, ensure_ascii=False) + "\n")
print(len(lines), "cases,", sum("error" in x for x in lines), "refused")
