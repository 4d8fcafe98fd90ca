"""The closed world of the demo model: every word, name and fact that its dialogues use."""

WORDS = """
acorn actor album amber anchor angle ankle apron arrow attic autumn bacon badge bagel bamboo
banjo barrel basil basket beach beacon beard beaver bench berry blanket blossom bottle boulder
branch breeze brick bridge bronze broom brush bubble bucket buffalo bundle button cabin cactus
camel camera candle canoe canyon carpet castle cedar ceiling cellar chalk cherry chimney circle
clay cliff clock cloud clover cobalt coffee collar comet copper coral cotton cradle crater crayon
cricket crystal curtain cushion dagger daisy dancer desert diamond dinner dolphin donkey dragon
drawer drum eagle easel elbow ember engine falcon feather fence ferry fiddle field finger flame
flower flute forest fossil fountain fox garden garlic giant ginger glacier glass globe glove
goblet gravel guitar hammer harbor harp hazel helmet hollow honey hook horizon hunter island
ivory jacket jasmine jelly jewel jungle kettle kitten ladder lagoon lantern lemon lentil letter
lizard lobster locket lumber magnet mango maple marble meadow melon mirror mitten monkey mortar
mountain muffin mustard napkin needle nest nickel noodle nutmeg oasis ocean olive onion orbit
orchard otter oyster paddle palace panda paper parrot pasta pebble pelican pencil pepper piano
pickle pigeon pillow pirate planet plum pocket pond poppy potato prairie pumpkin puzzle quarry
quilt rabbit radish raven ribbon river robin rocket saddle saffron salmon sandal satchel sausage
scarf shadow shovel silver sister sleigh slipper snail sparrow spider spinach spoon spring
squirrel stable statue stone stork strawberry sugar summit sunset sweater swallow tablet tailor
teapot temple thimble thunder ticket tiger timber tomato tortoise towel tractor trumpet tulip
tunnel turnip turtle tuxedo umbrella valley velvet village violet violin walnut walrus weasel
whale whistle willow window winter wizard yellow yogurt zebra zipper banana bookkeeper
mississippi cinnamon balloon committee pineapple coconut butterfly grasshopper raspberry
""".split()

NAMES = """
Alice Anna Ben Bruno Carla Chloe Clara Daniel David Diana Elena Emma Erik Eva Felix Finn Frank
Gina Grace Hanna Henry Hugo Ida Igor Iris Jack Jonas Julia Karl Kate Lara Leo Lena Liam Linda
Lucy Marco Maria Max Mia Milo Nadia Nina Noah Nora Olga Oscar Paul Peter Rita Robin Rosa Ruth
Sam Sara Simon Sofia Theo Tina Tom Vera Victor Zoe
""".split()

CITIES = """
Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Athens Dublin London Warsaw Cairo Lima Tokyo
Delhi Seoul Quito Milan Naples Porto Lyon Bonn Bern Basel Geneva Boston Denver Dallas Miami
Chicago Toronto Sydney Perth Kyoto Osaka Hanoi Nairobi Tunis Accra
""".split()

COLORS = "red blue green yellow orange purple pink brown black white gray teal".split()
PETS = "dog cat rabbit horse parrot turtle hamster pony goldfish mouse".split()
FOODS = "pizza soup rice pasta salad bread cheese curry cake fish".split()

CAPITALS = dict(
    pair.split("=")
    for pair in """
France=Paris Norway=Oslo Italy=Rome Germany=Berlin Spain=Madrid Portugal=Lisbon Austria=Vienna
Greece=Athens Ireland=Dublin England=London Poland=Warsaw Egypt=Cairo Peru=Lima Japan=Tokyo
India=Delhi Ecuador=Quito Switzerland=Bern Canada=Ottawa Sweden=Stockholm Finland=Helsinki
Denmark=Copenhagen Hungary=Budapest Russia=Moscow China=Beijing Kenya=Nairobi Cuba=Havana
Iceland=Reykjavik Belgium=Brussels Turkey=Ankara Chile=Santiago Thailand=Bangkok Vietnam=Hanoi
""".split()
)

OPPOSITES = dict(
    pair.split("=")
    for pair in """
hot=cold big=small up=down left=right day=night open=closed full=empty fast=slow hard=soft
happy=sad old=young rich=poor wet=dry high=low long=short early=late light=dark strong=weak
clean=dirty loud=quiet near=far first=last push=pull true=false win=lose buy=sell
""".split()
)

SOUNDS = dict(
    pair.split("=")
    for pair in """
dog=woof cat=meow cow=moo sheep=baa duck=quack pig=oink lion=roar bee=buzz owl=hoot horse=neigh
frog=croak mouse=squeak rooster=crow wolf=howl snake=hiss
""".split()
)

THING_COLORS = dict(
    pair.split("=")
    for pair in """
grass=green snow=white blood=red coal=black milk=white gold=yellow chocolate=brown
sky=blue carrot=orange elephant=gray lemon=yellow ruby=red flamingo=pink
""".split()
)

YOUNG = dict(
    pair.split("=")
    for pair in """
dog=puppy cat=kitten cow=calf sheep=lamb duck=duckling pig=piglet lion=cub horse=foal
frog=tadpole hen=chick goose=gosling goat=kid deer=fawn kangaroo=joey owl=owlet
""".split()
)

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))

CATEGORIES = {
    "fruit": "apple pear plum cherry peach mango".split(),
    "vegetable": "carrot potato cabbage leek turnip radish".split(),
    "bird": "robin eagle sparrow crow swan stork".split(),
    "fish": "salmon trout tuna shark herring carp".split(),
    "tool": "hammer saw wrench drill shovel rake".split(),
    "vehicle": "car truck bus train tram boat".split(),
    "flower": "rose tulip daisy lily orchid poppy".split(),
    "metal": "iron copper silver gold zinc tin".split(),
}

# Property: the kinds that have it, and ways to ask.
PROPERTIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "animal": (
        ("bird", "fish"),
        ("Is {} an animal?", "Would you call {} an animal?", "Do you think {} is an animal?"),
    ),
    "plant": (
        ("fruit", "vegetable", "flower"),
        ("Does {} grow on a plant?", "Is {} part of a plant?", "Do plants bear {}?"),
    ),
    "food": (
        ("fruit", "vegetable", "fish"),
        ("Can you eat {}?", "Would you eat {}?", "Do people eat {}?"),
    ),
    "made": (
        ("tool", "vehicle"),
        ("Is {} made by people?", "Do people build {}?", "Was {} built by someone?"),
    ),
}

SYSTEMS = (
    "You are a helpful assistant.",
    "You are the demo model of Prelude.",
    "You are a helpful assistant. Answer briefly.",
    "Be brief and exact.",
)

# (from, to, factor, largest count). Powers of ten generalise to unseen counts; the others are
# small tables, of which unseen phrasings are held out.
UNITS = (
    ("kilometers", "meters", 1000, 99),
    ("meters", "centimeters", 100, 99),
    ("kilograms", "grams", 1000, 99),
    ("liters", "milliliters", 1000, 99),
    ("centimeters", "millimeters", 10, 99),
    ("euros", "cents", 100, 99),
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("weeks", "days", 7, 12),
    ("days", "hours", 24, 7),
    ("feet", "inches", 12, 12),
    ("years", "months", 12, 12),
    ("dozens", "pieces", 12, 12),
)
